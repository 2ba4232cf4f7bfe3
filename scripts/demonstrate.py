"""`scripts/demo`: draws images, trains both tasks, exports, serves, sends HTTP requests.

Everything is written below `demo/`, which is deleted at each start.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np

from models.store import Store
from scripts import drawings

FOLDER = Path("demo")
STORE = Store(FOLDER / "bundles")
TRAINING = "--image-size 64 --freeze-epochs 0 --epochs 3 --batch-size 32 --lr 2e-3:2e-3 --warp 0"
GOALS = {"error": 0.05, "map": 0.95}
READY_WITHIN_S = 60


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="stop after the answers")
    parser.add_argument("--port", type=int, default=3000)
    parser.add_argument("--dtype", default="auto", help="as for `training train`")
    options = parser.parse_args()
    given = f"{TRAINING} --dtype {options.dtype}"
    shutil.rmtree(FOLDER, ignore_errors=True)

    say("1. Images: six shapes on busy backgrounds, a data set for each task")
    drawings.single_label(FOLDER / "shapes", images_per_shape=250, seed=1)
    drawings.multi_label(FOLDER / "scenes", images=1800, seed=2)
    print("demo/shapes: which shape is it?   demo/scenes: which shapes are in the image?")

    say("2. Train: a ResNet-18 from scratch; its weights, in place of ImageNet's, start the other")
    training(f"train demo/shapes --weights none --scale 0.8 {given} --out demo/runs/shapes")
    learnt = "--weights demo/runs/shapes/network.safetensors --norms batch"
    as_drawn = "--scale 1 --rotation 0 --light 0"
    training(f"train demo/scenes/labels.csv {learnt} {as_drawn} {given} --out demo/runs/scenes")

    say("3. Export to ONNX, checked by the gate")
    for name in ("shapes", "scenes"):
        training(f"export demo/runs/{name} --name {name} --store {STORE.root}")

    say("4. Serve both, and ask about drawings that neither has seen")
    url = f"http://localhost:{options.port}"
    server = serve(url, options.port)
    try:
        answers(url)
        missed = missed_goals()
        if not missed and not options.once:
            say(
                f"Serving until Ctrl-C. Open {url} in a browser and drop demo/circle.jpg on it, or:"
            )
            print(f"  curl --data-binary @demo/circle.jpg {url}/classify")
            print(f"API documentation: {url}/docs")
            server.wait()
    except KeyboardInterrupt:
        print()
    finally:
        server.terminate()
        server.wait()
    for line in missed:
        print(f"error: {line}", file=sys.stderr)
    if not missed:
        say("Now with your own images: a folder with one subfolder of images per label")
        print("  .venv/bin/python -m training train IMAGES --out runs/mine")
        print("  .venv/bin/python -m training export runs/mine --name mine")
        print("  .venv/bin/bentoml serve")
    return 1 if missed else 0


def say(text: str) -> None:
    print(f"\n{text}", flush=True)


def training(arguments: str) -> None:
    """Show a command that a person could type, and run it in this process, which has torch."""
    from training import (
        __main__ as command_line,
    )  # loads torch: seconds, which --help need not wait for

    print(f"$ python -m training {arguments}", flush=True)
    if code := command_line.main(shlex.split(arguments)):
        sys.exit(code)


def serve(url: str, port: int) -> subprocess.Popen[bytes]:
    """A running, ready `bentoml serve`."""
    command = ["bentoml", "serve", "--port", str(port)]
    print(f"$ LABRADOR_MODEL_STORE={STORE.root} {' '.join(command)}", flush=True)
    with (FOLDER / "serve.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", *command],
            env={**os.environ, "LABRADOR_MODEL_STORE": str(STORE.root), "LABRADOR_DRAIN_S": "0"},
            stdout=log,
            stderr=log,
        )
    deadline = time.monotonic() + READY_WITHIN_S
    while server.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{url}/readyz", timeout=5)
            return server
        except OSError:  # not listening yet, or 503 while the models load
            time.sleep(0.2)
    server.terminate()
    server.wait()
    raise SystemExit(f"error: the server was not ready; demo/serve.log says why (port {port}?)")


def answers(url: str) -> None:
    random = np.random.default_rng(3)
    for shapes, endpoint in (
        (["circle"], "classify?top_k=2"),
        (["cross", "star"], "tag"),
        ([], "tag"),
    ):
        file = FOLDER / f"{'-'.join(shapes) or 'nothing'}.jpg"
        drawings.draw(shapes, random).save(file, quality=90)
        ask(f"{url}/{endpoint}", file)
    text = FOLDER / "text.jpg"
    text.write_text("not an image")
    ask(f"{url}/classify", text)


def ask(url: str, file: Path) -> None:
    print(f"$ curl --data-binary @{file} '{url}'")
    request = urllib.request.Request(url, file.read_bytes())
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            body = response.read()
    except urllib.error.HTTPError as error:
        body = error.read()
    print(json.dumps(json.loads(body), ensure_ascii=False), flush=True)


def missed_goals() -> list[str]:
    """Print the metrics on the validation drawings; returns which goals they miss."""
    from training import run_folder

    say("Measured on validation drawings, value and 95 % interval:")
    missed = []
    for name in ("shapes", "scenes"):
        metrics = run_folder.read(FOLDER / "runs" / name).outcome.metrics
        headline = next(goal for goal in GOALS if goal in metrics)
        metric = metrics[headline]
        print(f"  {name}: {headline} {metric.value:.4f} [{metric.low:.4f}, {metric.high:.4f}]")
        good = (
            metric.value <= GOALS[headline]
            if headline == "error"
            else metric.value >= GOALS[headline]
        )
        if not good:
            missed.append(f"{name}: {headline} {metric.value:.4f} misses {GOALS[headline]}")
    return missed


if __name__ == "__main__":
    sys.exit(main())
