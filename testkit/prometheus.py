"""A real Prometheus that scrapes real servers and loads the project's rules."""

import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from testkit.servers import ROOT, Server, free_port
from testkit.waiting import until

RULES = ROOT / "deploy" / "prometheus"
WITHIN_S = 60


@contextmanager
def watching(server: Server, folder: Path, rules: Sequence[Path] = ()) -> Iterator[str]:
    """The URL of a Prometheus that scrapes the server and evaluates the rules twice a second."""
    config = folder / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}\n"
        f"rule_files: [{', '.join(map(str, rules))}]\n"
        "scrape_configs:\n"
        f"  - {{job_name: labrador, static_configs: [{{targets: ['127.0.0.1:{server.port}']}}]}}\n"
    )
    port = free_port()
    command = [
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        until(lambda: bool(query(url, "labrador_model_ready")), WITHIN_S)
        yield url
    finally:
        process.terminate()
        process.wait(WITHIN_S)


def shortened(folder: Path, window: str) -> list[Path]:
    """Copies of the rules in which six hours are `window` and alerts wait for only a second.

    Names keep their 6h.
    """
    copies = []
    for file in RULES.glob("*.yml"):
        text = re.sub(r"(\[|offset )6h", rf"\g<1>{window}", file.read_text())
        copies.append(folder / file.name)
        copies[-1].write_text(re.sub(r"for: \w+", "for: 1s", text))
    return copies


def query(url: str, expression: str, last_s: int | None = None) -> list[dict[str, Any]]:
    """The series of the expression now, or over the last seconds; none while Prometheus starts.

    Raises httpx.HTTPStatusError for an expression that Prometheus refuses.
    """
    parameters: dict[str, str | float] = {"query": expression}
    if last_s is not None:
        now_s = time.time()
        parameters |= {"start": now_s - last_s, "end": now_s, "step": 1}
    path = "query" if last_s is None else "query_range"
    try:
        answer = httpx.get(f"{url}/api/v1/{path}", params=parameters, timeout=WITHIN_S)
    except httpx.TransportError:
        return []
    if answer.status_code == 503:
        return []
    answer.raise_for_status()
    found: list[dict[str, Any]] = answer.json()["data"]["result"]
    return found


def firing(url: str) -> set[tuple[str, str | None]]:
    """The firing alerts with their models, but not the one for slowness: some machines are slow."""
    alerts = query(url, 'ALERTS{alertstate="firing",alertname!="LabradorSlow"}')
    return {(one["metric"]["alertname"], one["metric"].get("model")) for one in alerts}
