"""A real Prometheus scrapes the real service, and its queries return what was done."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from testkit import tiny_models
from testkit.prometheus import WITHIN_S, query, watching
from testkit.servers import serve
from testkit.waiting import until

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="Prometheus is missing: Debian's package prometheus"
)


def wait_for(url: str, expression: str, value: float) -> dict[str, str]:
    """The labels of the first series, once it has this value."""
    found: list[dict[str, Any]] = []

    def has_it() -> bool:
        found[:] = query(url, expression)
        return bool(found) and float(found[0]["value"][1]) == pytest.approx(value, abs=1e-6)

    until(has_it, WITHIN_S)
    labels: dict[str, str] = found[0]["metric"]
    return labels


def test_prometheus_has_what_the_service_did(tmp_path: Path) -> None:
    tiny_models.add(tmp_path / "store", "colours", "single")
    with (
        serve(tmp_path, model_store=tmp_path / "store") as server,
        watching(server, tmp_path) as url,
    ):
        text = httpx.get(f"{server.url}/metrics").text
        checked = subprocess.run(
            ["promtool", "check", "metrics"], input=text, capture_output=True, text=True
        )
        assert checked.returncode == 0, checked.stderr

        for colour in ((200, 30, 30), (200, 30, 30), (30, 60, 220)):
            httpx.post(
                f"{server.url}/classify", content=tiny_models.picture(colour)
            ).raise_for_status()
        httpx.post(f"{server.url}/classify", content=b"not an image")
        wait_for(url, 'labrador_requests_total{endpoint="classify",code="200"}', 3)
        wait_for(url, 'labrador_rejected_total{reason="image_undecodable"}', 1)
        wait_for(url, 'sum(labrador_stage_seconds_count{stage="queue"})', 3)
        assert wait_for(url, "labrador_model_ready", 1)["model"] == "colours"
        info = wait_for(url, "labrador_model_info", 1)
        assert info["provider"] == "CPUExecutionProvider"
        # a label's share now minus its share on the validation images: drift
        drift = (
            "labrador_predictions_total{label='red'} / ignoring(label) group_left()"
            " sum by (model, instance, job) (labrador_predictions_total)"
            " - on (model, label) group_left() labrador_baseline_share{label='red'}"
        )
        wait_for(url, drift, 2 / 3 - 0.4)
