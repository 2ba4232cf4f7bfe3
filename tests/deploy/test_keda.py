"""KEDA's ScaledObject against its schema, the variant that it replaces, and a real Prometheus."""

import copy
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.fleet.__main__ import RULES, WITH_KEDA
from benchmarks.fleet.autoscaler import Direction, Policy
from testkit.servers import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
SCALED = yaml.safe_load((FOLDER / "keda" / "scaled-object.yaml").read_text())
SPEC = SCALED["spec"]
TRIGGERS = {trigger["name"]: trigger["metadata"] for trigger in SPEC["triggers"]}
AUTOSCALER = yaml.safe_load((FOLDER / "base" / "autoscaler.yaml").read_text())["spec"]


def render(variant: str) -> dict[str, Any]:
    """Kind -> the only object of it."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is missing")
    command = ["kubectl", "kustomize", str(FOLDER / variant)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {each["kind"]: each for each in yaml.safe_load_all(done.stdout)}


def accepted(manifest: dict[str, Any]) -> dict[str, Any]:
    """What KEDA's schema keeps of it: a field that there is not is dropped."""
    from cloudcoil.models.keda.v1alpha1 import ScaledObject  # late: it takes seconds

    read = ScaledObject.model_validate(copy.deepcopy(manifest))
    kept: dict[str, Any] = read.model_dump(by_alias=True, exclude_unset=True, mode="json")
    return kept


def test_the_scaled_object_has_only_fields_of_keda_s_schema() -> None:
    assert accepted(SCALED) == SCALED
    for place in (SPEC, SPEC["triggers"][0], SPEC["fallback"]):
        place["treshold"] = 1
        assert accepted(SCALED) != SCALED
        del place["treshold"]


def test_it_takes_the_place_of_the_autoscaler_and_of_nothing_else() -> None:
    whole, before = render("keda"), render("cpu")
    added = whole.pop("ScaledObject")
    assert before.pop("HorizontalPodAutoscaler")["metadata"]["name"] == added["metadata"]["name"]
    assert whole == before
    assert added["spec"]["scaleTargetRef"]["name"] == whole["Deployment"]["metadata"]["name"]


def test_it_has_the_autoscaler_s_limits_and_the_simulated_rule() -> None:
    limits = (SPEC["minReplicaCount"], SPEC["maxReplicaCount"])
    assert limits == (AUTOSCALER["minReplicas"], AUTOSCALER["maxReplicas"])
    behavior = SPEC["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior == AUTOSCALER["behavior"]
    down, rule = behavior["scaleDown"], RULES[WITH_KEDA]
    policies = (Policy(p["type"], p["value"], p["periodSeconds"]) for p in down["policies"])
    assert rule.down == Direction(down["stabilizationWindowSeconds"], tuple(policies))
    for signal, (name, trigger) in zip(rule.signals, TRIGGERS.items(), strict=True):
        assert signal.kind.removeprefix("all ") == name
        assert float(trigger["threshold"]) == signal.target
        windows = set(re.findall(r"\[(\w+)\]", trigger["query"]))
        assert windows == {{30: "30s", 60: "1m"}[int(signal.window_s)]}
    assert {trigger["metricType"] for trigger in SPEC["triggers"]} == {"AverageValue"}


def test_without_prometheus_the_fleet_is_at_its_largest() -> None:
    """Only a query that fails leads there: one that finds nothing would otherwise count as 0."""
    assert SPEC["fallback"]["replicas"] == SPEC["maxReplicaCount"]
    assert {trigger["ignoreNullValues"] for trigger in TRIGGERS.values()} == {"false"}


def test_its_queries_ask_for_metrics_of_the_service() -> None:
    text = (ROOT / "serving" / "observability" / "metrics.py").read_text()
    written = set(re.findall(r'"(labrador_\w+)"', text))
    for trigger in TRIGGERS.values():
        asked = set(re.findall(r"labrador_\w+", trigger["query"]))
        assert {name.removesuffix("_sum") for name in asked} <= written


def _series(name: str, values: str, **labels: str) -> dict[str, str]:
    given = {"namespace": "default", "pod": "labrador-cpu-5d9c-x2", "instance": "1"} | labels
    inside = ",".join(f'{key}="{value}"' for key, value in given.items())
    return {"series": f"{name}{{{inside}}}", "values": values}


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is missing: Debian's package prometheus"
)
@pytest.mark.parametrize(
    ("requests", "demand"),
    [
        ({"200": 30, "429": 90}, 3.0),  # as busy as four that refuse none
        ({"200": 30, "422": 10}, 0.75),
        ({"200": 0}, 0.75),
        ({"200": 0, "429": 0}, 0.75),  # nothing asked for now
        ({"429": 10}, 75.0),  # all refused: a hundred times as much
    ],
)
def test_the_queries_sum_the_fleet_and_count_what_was_refused(
    tmp_path: Path, requests: dict[str, int], demand: float
) -> None:
    """A pod holds 64 of 512 images, another 128; a model is busy for 0.5 and 0.25 of the time."""
    second = {"pod": "labrador-cpu-5d9c-z9"}
    canary = {"pod": "labrador-cpu-canary-5d9c-x2"}
    held, limit, busy = (
        "labrador_held_images",
        "labrador_held_images_limit",
        "labrador_stage_seconds_sum",
    )
    series = []
    for labels, images, seconds in (({}, 64, 15), (second, 128, 7.5), (canary, 512, 30)):
        series += [
            _series(held, f"{images}x40", model="pets", **labels),
            _series(limit, "512x40", model="pets", **labels),
            _series(busy, f"0+{seconds}x40", model="pets", stage="infer", **labels),
            _series(busy, "0+1x40", model="voc", stage="infer", **labels),
            _series(busy, "0+60x40", model="pets", stage="decode", **labels),
            _series("labrador_workers", "2x40", **labels),
        ]
    for code, rate in requests.items():
        counted = {"endpoint": "classify", "code": code}
        series.append(_series("labrador_requests_total", f"0+{rate}x40", **counted))
    probes = {"endpoint": "readyz", "code": "200"}
    series.append(_series("labrador_requests_total", "0+900x40", **probes))
    expected = {"held": 0.375, "demand": demand}
    tests = [
        {
            "expr": f"abs(({trigger['query']}) - {expected[name]}) < bool 1e-9",
            "eval_time": "5m",
            "exp_samples": [{"labels": "{}", "value": 1}],
        }
        for name, trigger in TRIGGERS.items()
    ]
    unit = {"interval": "15s", "input_series": series, "promql_expr_test": tests}
    file = tmp_path / "test.yml"
    file.write_text(yaml.safe_dump({"tests": [unit]}))
    done = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
