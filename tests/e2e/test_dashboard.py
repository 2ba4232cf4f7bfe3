"""Rules, dashboard and runbook against a real Prometheus that scrapes the real service."""

import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from PIL import Image

from benchmarks import dashboard, drift
from models.manifest import Baseline
from testkit import novel_models, tiny_models
from testkit.colour_model import RED, VALIDATION_IMAGES, add, ask, colours, measured_baseline
from testkit.prometheus import RULES, WITHIN_S, firing, query, shortened, watching
from testkit.servers import ROOT, Server, serve
from testkit.waiting import until

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        shutil.which("prometheus") is None,
        reason="Prometheus is missing: Debian's package prometheus",
    ),
]
RUNBOOK = ROOT / "deploy" / "RUNBOOK.md"
TARGETS = [
    pytest.param(target["expr"], id=f"{panel['title']}: {target['refId']}")
    for panel in dashboard.panels()
    for target in panel["targets"]
]
LAST_S = 60


@dataclass(frozen=True)
class Watched:
    """A service that was used in every way, and the Prometheus that scraped it."""

    server: Server
    prometheus: str


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Two workers and two models, used so that every metric has data."""
    folder = tmp_path_factory.mktemp("watched")
    store = folder / "store"
    random = np.random.default_rng(1)
    dashboard.add_models(store, random)
    with (
        serve(folder, workers=2, model_store=store, reload_s=0.2, max_queue=64) as server,
        watching(server, folder, shortened(folder, "2m")) as url,
    ):
        dashboard.ask_for(server, random, 5, drifted=False)
        for _ in range(2):  # codes that first appear in one scrape have a rate after the next
            dashboard.overload(server, random)
        dashboard.swap(server, store, random)
        until(lambda: bool(query(url, "job:labrador_requests_shed:ratio_rate5m > 0")), WITHIN_S)
        until(lambda: bool(query(url, "job:labrador_requests_failed:ratio_rate5m > 0")), WITHIN_S)
        yield Watched(server, url)


@pytest.mark.parametrize("expression", TARGETS)
def test_every_panel_shows_what_the_service_did(watched: Watched, expression: str) -> None:
    series = query(watched.prometheus, dashboard.filled(expression), LAST_S)
    values = [float(value) for one in series for _, value in one["values"]]
    assert any(map(math.isfinite, values)), expression


def test_the_dashboard_s_variables_offer_what_there_is(watched: Watched) -> None:
    offered = {}
    for variable in dashboard.DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            asked = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
            assert asked
            found = query(watched.prometheus, f"count by ({asked[2]}) ({asked[1]})")
            offered[variable["name"]] = {one["metric"].get(asked[2]) for one in found}
    assert offered == {
        "namespace": {None},  # outside Kubernetes
        "model": {"colours", "fragile", "tags"},
        "instance": {f"127.0.0.1:{watched.server.port}"},
    }


def test_every_recording_rule_records(watched: Watched) -> None:
    for group in yaml.safe_load((RULES / "recording.yml").read_text())["groups"]:
        for rule in group["rules"]:
            assert query(watched.prometheus, rule["record"], LAST_S), rule["record"]


def test_the_alerts_fire_for_what_was_done_to_the_service(watched: Watched) -> None:
    expected = {
        ("LabradorFailing", None),
        ("LabradorShedding", None),
        ("LabradorReloadFailed", "colours"),
        ("LabradorNotOnCuda", "colours"),
        ("LabradorNotOnCuda", "fragile"),
        ("LabradorNotOnCuda", "tags"),
    }
    until(lambda: expected <= firing(watched.prometheus), WITHIN_S)
    assert firing(watched.prometheus) == expected


def test_every_metric_in_use_is_exported(watched: Watched) -> None:
    text = httpx.get(f"{watched.server.url}/metrics").text
    exported = set(re.findall(r"^(labrador_\w+)", text, re.MULTILINE))
    records = set(re.findall(r"record: (\S+)", (RULES / "recording.yml").read_text()))
    for file in (*RULES.rglob("*.yml"), ROOT / "deploy" / "grafana" / "dashboard.json", RUNBOOK):
        names = set(re.findall(r"[\w:]*labrador_[\w:]+", file.read_text()))
        assert names - exported <= records, file


def test_the_rules_tests_use_series_that_the_service_has(watched: Watched) -> None:
    found = query(watched.prometheus, '{__name__=~"labrador_.*|up"}', LAST_S)
    real = {one["metric"]["__name__"]: one["metric"].keys() for one in found}
    for file in (RULES / "tests").glob("*.yml"):
        for test in yaml.safe_load(file.read_text())["tests"]:
            for fed in test["input_series"]:
                name, _, labels = fed["series"].partition("{")
                fed_labels = set(re.findall(r'(\w+)="', labels)) - {"cluster", "namespace"}
                assert fed_labels <= real[name], fed["series"]


def test_the_dashboard_is_drawn(watched: Watched, tmp_path: Path) -> None:
    file = tmp_path / "dashboard.png"
    dashboard.draw(watched.prometheus, LAST_S, file)
    with Image.open(file) as image:
        assert image.format == "PNG" and image.width > 500


def test_images_unlike_the_validation_images_make_only_the_drift_alerts_fire(
    tmp_path: Path,
) -> None:
    random = np.random.default_rng(2)
    validation = colours(random, VALIDATION_IMAGES)
    alike = colours(random, 320)
    pale = colours(random, 320, above=30)
    asked: dict[tuple[Any, str], list[tuple[int, int, int]]] = {
        ("single", "alike"): alike,
        ("single", "one-colour"): [RED] * 320,
        ("single", "pale"): pale,
        ("single", "few"): [RED] * 120,
        ("single", "white"): [(255, 255, 255)] * 320,  # no validation image is as bright
        ("multi", "tags-alike"): alike,
        ("multi", "tags-one-colour"): [RED] * 320,
    }
    store = tmp_path / "store"
    for task, name in asked:
        add(store, name, task, validation)
    rules = [file for file in shortened(tmp_path, "2m") if file.name != "cuda.yml"]
    with (
        serve(tmp_path, model_store=store) as server,
        watching(server, tmp_path, rules) as url,
    ):
        for (task, name), images in asked.items():
            ask(server, task, name, images)
        expected = {
            ("LabradorLabelDrift", "one-colour"),
            ("LabradorLabelDrift", "tags-one-colour"),
            ("LabradorConfidenceDrift", "one-colour"),
            ("LabradorConfidenceDrift", "tags-one-colour"),
            ("LabradorConfidenceDrift", "pale"),
            ("LabradorLabelDrift", "white"),
            ("LabradorConfidenceDrift", "white"),
            ("LabradorUnknown", "white"),
        }
        until(lambda: expected <= firing(url), WITHIN_S)
        counted = query(url, "job_model:labrador_confidence_count:increase6h")
        counts = {one["metric"]["model"]: float(one["value"][1]) for one in counted}
        assert counts == {name: len(images) for (_, name), images in asked.items()}
        assert firing(url) == expected
        for (task, name), images in asked.items():
            manifest, _ = tiny_models.content(name, 1, task)
            _check_distances(
                url,
                name,
                measured_baseline(manifest, images),
                measured_baseline(manifest, validation),
            )


def _check_distances(url: str, model: str, now: Baseline, validation: Baseline) -> None:
    """What Prometheus recorded for a model matches what NumPy computes from the same images."""
    n, m = sum(now.confidence_counts), sum(validation.confidence_counts)
    p, q = np.array(now.label_share), np.array(validation.label_share)
    bins = np.array(now.confidence_counts) / n, np.array(validation.confidence_counts) / m
    expected = {
        "labrador_predictions:bray_curtis6h": drift.bray_curtis(p, q),
        "labrador_predictions:chance6h": drift.chance_of_labels(q, n, m),
        "labrador_confidence:kolmogorov_smirnov6h": drift.kolmogorov_smirnov(*bins),
        "labrador_confidence:chance6h": drift.chance_of_confidence(n, m),
        "labrador_unknown:chance6h": drift.chance_of_unknown(novel_models.ALPHA, n, m),
    }
    for record, value in expected.items():
        (found,) = query(url, f'job_model:{record}{{model="{model}"}}')
        assert float(found["value"][1]) == pytest.approx(value, abs=1e-9), (model, record)
