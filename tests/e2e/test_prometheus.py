"""A real Prometheus scrapes the real service, and its queries give what was done."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import tiny
from tests.serving.running import Server, free_port, serve

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="Prometheus is missing: Debian's package prometheus"
)
WITHIN_S = 30


@contextmanager
def scraping(server: Server, folder: Path) -> Iterator[str]:
    """The URL of a Prometheus that asks the server four times a second."""
    config = folder / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 250ms, scrape_timeout: 250ms}\n"
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
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(WITHIN_S)


def until(url: str, query: str, value: float) -> list[dict[str, Any]]:
    """The query's series, once the first has this value."""
    result: list[dict[str, Any]] = []
    end_s = time.monotonic() + WITHIN_S
    while time.monotonic() < end_s:
        try:
            answer = httpx.get(f"{url}/api/v1/query", params={"query": query})
            result = answer.json()["data"]["result"]
        except (httpx.TransportError, ValueError, KeyError):
            result = []  # it is starting
        if result and float(result[0]["value"][1]) == pytest.approx(value, abs=1e-6):
            return result
        time.sleep(0.2)
    raise AssertionError(f"{query} is {result}, not {value}")


def test_prometheus_knows_what_the_service_did(tmp_path: Path) -> None:
    tiny.add(tmp_path / "store", "colours", "single")
    with (
        serve(tmp_path, model_store=tmp_path / "store") as server,
        scraping(server, tmp_path) as url,
    ):
        text = httpx.get(f"{server.url}/metrics").text
        checked = subprocess.run(
            ["promtool", "check", "metrics"], input=text, capture_output=True, text=True
        )
        assert checked.returncode == 0, checked.stderr

        for colour in ((200, 30, 30), (200, 30, 30), (30, 60, 220)):
            httpx.post(f"{server.url}/classify", content=tiny.picture(colour)).raise_for_status()
        httpx.post(f"{server.url}/classify", content=b"no picture")
        until(url, 'labrador_requests_total{endpoint="classify",code="200"}', 3)
        until(url, 'labrador_rejected_total{reason="image_undecodable"}', 1)
        until(url, 'sum(labrador_stage_seconds_count{stage="queue"})', 3)
        (ready,) = until(url, "labrador_model_ready", 1)
        assert ready["metric"]["model"] == "colours"
        (info,) = until(url, "labrador_model_info", 1)
        assert info["metric"]["provider"] == "CPUExecutionProvider"
        # a label's share today minus its share on the held-out images: drift
        drift = (
            "labrador_predictions_total{label='red'} / ignoring(label) group_left()"
            " sum by (model, instance, job) (labrador_predictions_total)"
            " - on (model, label) group_left() labrador_baseline_share{label='red'}"
        )
        until(url, drift, 2 / 3 - 0.4)
