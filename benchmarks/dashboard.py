"""Draws the dashboard: runs its queries on a Prometheus that scrapes a running service.

python -m benchmarks.dashboard FILE.png [MINUTES]

Serves two tiny models with two workers and sends them images: for the first half of the time like
the validation images, for the second of one colour only. Between the halves come a swap, a swap
that fails, and an overload. The rules' window of six hours is shortened to a third of the time, so
that the drift becomes visible.
"""

import io
import json
import math
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from models.store import Store
from serving.settings import PARTS_MAX
from testkit import tiny_models
from testkit.colour_model import RED, VALIDATION_IMAGES, Colour, add, ask, colours
from testkit.prometheus import WITHIN_S, query, shortened, watching
from testkit.servers import ROOT, Server, serve
from testkit.waiting import until

DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "dashboard.json").read_text())
TASKS: dict[str, Any] = {"colours": "single", "tags": "multi"}
_COLUMNS = 3
_CLIENTS = 6

Answers = list[tuple[str, list[dict[str, Any]]]]  # for each target: its legend and its series


def panels() -> Iterator[dict[str, Any]]:
    """Those of the service's own metrics; rows have none, and some show the cluster's."""
    for panel in DASHBOARD["panels"]:
        if any("labrador_" in target["expr"] for target in panel.get("targets", ())):
            yield panel


def filled(expression: str, model: str = ".*") -> str:
    """A panel's expression with its variables filled in as by Grafana, for all instances."""
    values = {"$__rate_interval": "20s", "$model": model, "$instance": ".*", "$namespace": ".*"}
    for name, value in values.items():
        expression = expression.replace(name, value)
    return expression


def add_models(store: Path, random: np.random.Generator) -> None:
    for name, task in TASKS.items():
        add(store, name, task, colours(random, VALIDATION_IMAGES))
    broken = tiny_models.network("single", nan_for_black=True)
    tiny_models.add(store, "fragile", "single", broken)  # for answers with 5xx


def swap(server: Server, store: Path, random: np.random.Generator) -> None:
    """A version of colours that both workers swap in, and one that neither can."""
    add(store, "colours", "single", colours(random, VALIDATION_IMAGES))
    tiny_models.add(
        store, "colours", "single", tiny_models.network("single", tiny_models.WEIGHTS * 0.1)
    )

    def release(version: int, result: str) -> None:
        Store(store).release("colours", version)
        series = f'labrador_reload_total{{model="colours",result="{result}"}}'
        until(lambda: server.metric(series) == 2, WITHIN_S)

    release(2, "swapped")
    release(3, "failed")


def overload(server: Server, random: np.random.Generator) -> None:
    """Send more than the workers can handle, some with deadlines too short to meet, and images
    on which a model fails.
    """
    images = [tiny_models.picture(colour, 400) for colour in colours(random, PARTS_MAX)]

    def client() -> None:
        for timeout_ms in ("5", "30000", "5", "30000"):
            parts = [("image", ("image.jpg", image, "image/jpeg")) for image in images]
            headers = {"X-Timeout-Ms": timeout_ms}
            url = f"{server.url}/classify?model=colours"
            httpx.post(url, files=parts, headers=headers, timeout=30)
        httpx.post(f"{server.url}/classify?model=fragile", content=tiny_models.picture((0, 0, 0)))

    series = ('rejected_total{reason="overloaded"}', 'dropped_total{reason="expired"}')
    before = [server.metric(f"labrador_{name}") for name in series]

    def overloaded() -> bool:
        clients = [threading.Thread(target=client) for _ in range(_CLIENTS)]
        for one in clients:
            one.start()
        for one in clients:
            one.join()
        now = [server.metric(f"labrador_{name}") for name in series]
        return all(after > earlier for after, earlier in zip(now, before, strict=True))

    until(overloaded, WITHIN_S)


def ask_for(server: Server, random: np.random.Generator, duration_s: float, drifted: bool) -> None:
    """Ask both models with one to eight images at a time, occasionally with an invalid image."""
    end_s = time.monotonic() + duration_s
    while time.monotonic() < end_s:
        for name, task in TASKS.items():
            count = int(random.integers(1, 9))
            images: list[Colour] = [RED] * count if drifted else colours(random, count)
            ask(server, task, name, images)
        if random.random() < 0.05:
            httpx.post(f"{server.url}/classify", content=b"not an image")
        time.sleep(random.exponential(0.1))


def draw(url: str, last_s: int, file: Path) -> None:
    """Draw every panel over the last `last_s` seconds, bar charts once per model, as a PNG."""
    plots = [
        (panel, model)
        for panel in panels()
        for model in (TASKS if panel["type"] == "barchart" else (".*",))
    ]
    rows = math.ceil(len(plots) / _COLUMNS)
    figure = Figure(figsize=(5.2 * _COLUMNS, 2.6 * rows), dpi=80, layout="constrained")
    for axes in figure.subplots(rows, _COLUMNS).ravel()[len(plots) :]:
        axes.set_axis_off()
    for axes, (panel, model) in zip(figure.axes, plots, strict=False):
        axes.set_title(panel["title"].replace("$model", model), fontsize=10, loc="left")
        axes.tick_params(labelsize=7)
        period_s = last_s if panel["type"] == "timeseries" else None
        answers = [
            (target["legendFormat"], query(url, filled(target["expr"], model), period_s))
            for target in panel["targets"]
        ]
        match panel["type"]:
            case "timeseries":
                _lines(axes, answers)
                axes.set_xlim(-last_s / 60, 0)
            case "barchart":
                _bars(axes, answers, panel["options"]["xField"])
            case _:
                _text(axes, answers)
    drawn = io.BytesIO()
    figure.savefig(drawn)
    Image.open(drawn).convert("RGB").quantize(64).save(file, optimize=True)


def _lines(axes: Axes, answers: Answers) -> None:
    for legend, series in answers:
        for one in series:
            times, values = np.array(one["values"], np.float64).T
            axes.plot((times - time.time()) / 60, values, label=_named(legend, one["metric"]))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("minutes", fontsize=7)
    axes.legend(fontsize=7, loc="upper left", framealpha=0.5)


def _named(legend: str, labels: dict[str, str]) -> str:
    """The legend as Grafana fills it in: {{model}} becomes the model's name."""
    return re.sub(r"{{(\w+)}}", lambda place: labels.get(place[1], ""), legend)


def _bars(axes: Axes, answers: Answers, field: str) -> None:
    for number, (legend, series) in enumerate(answers):
        last = {one["metric"][field]: float(one["value"][1]) for one in series}
        names = sorted(last)
        places = np.arange(len(names)) + 0.4 * number
        axes.bar(places, [last[name] for name in names], 0.4, label=legend)
        axes.set_xticks(places - 0.2 * number, names, rotation=90 if field == "le" else 0)
    axes.legend(fontsize=7, loc="upper left", framealpha=0.5)


def _text(axes: Axes, answers: Answers) -> None:
    lines = [
        "  ".join([*one["metric"].values(), one["value"][1]])
        for _, series in answers
        for one in series
    ]
    axes.text(0, 0.95, "\n".join(lines), fontsize=8, va="top", family="monospace")
    axes.set_axis_off()


def main(file: Path, minutes: float) -> None:
    random = np.random.default_rng(1)
    half_s = minutes * 30
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = folder / "store"
        add_models(store, random)
        rules = shortened(folder, f"{math.ceil(minutes * 20)}s")
        with (
            serve(folder, workers=2, model_store=store, reload_s=0.2, max_queue=64) as server,
            watching(server, folder, rules) as url,
        ):
            ask_for(server, random, half_s, drifted=False)
            for _ in range(3):
                overload(server, random)
            swap(server, store, random)
            ask_for(server, random, half_s, drifted=True)
            draw(url, math.ceil(minutes * 60), file)
            firing = query(url, 'count by (alertname, model) (ALERTS{alertstate="firing"})')
    print(f"{file}; firing at the end:")
    for one in firing:
        print("  " + " ".join(one["metric"].values()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 6)
