"""The alert rules fire exactly when promtool expects it, and each has a section in the runbook."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts import prometheus_rule
from serving.openapi import specification
from serving.settings import PREFIX, Settings
from testkit.prometheus import RULES
from testkit.servers import ROOT

RULE_FILES = sorted(RULES.glob("*.yml"))
TEST_FILES = sorted((RULES / "tests").glob("*.yml"))
RUNBOOK = (ROOT / "deploy" / "RUNBOOK.md").read_text()
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is missing: Debian's package prometheus"
)


def _rules(kind: str) -> Iterator[dict[str, Any]]:
    for file in RULE_FILES:
        for group in yaml.safe_load(file.read_text())["groups"]:
            yield from (rule for rule in group["rules"] if kind in rule)


ALERTS = list(_rules("alert"))


@needs_promtool
def test_promtool_accepts_every_rule() -> None:
    checked = subprocess.run(
        ["promtool", "check", "rules", *RULE_FILES], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


@needs_promtool
@pytest.mark.parametrize("file", TEST_FILES, ids=lambda file: file.stem)
def test_promtool_finds_the_alerts_that_its_tests_expect(file: Path) -> None:
    tested = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def _kind(labels: dict[str, str]) -> tuple[str, str | None]:
    """What tells rules of one alert apart."""
    return labels["severity"], labels.get("window")


def test_every_alert_is_tested_firing_and_silent() -> None:
    fired, silent = set(), set()
    for file in TEST_FILES:
        for test in yaml.safe_load(file.read_text())["tests"]:
            for case in test.get("alert_rule_test", ()):
                for alert in case["exp_alerts"]:
                    fired.add((case["alertname"], *_kind(alert["exp_labels"])))
                if not case["exp_alerts"]:
                    silent.add(case["alertname"])
    assert fired == {(rule["alert"], *_kind(rule["labels"])) for rule in ALERTS}
    assert len(fired) == len(ALERTS)  # no two have the same labels
    assert silent == {rule["alert"] for rule in ALERTS}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_every_alert_has_a_summary_a_value_and_a_runbook_section(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert "$value" in rule["annotations"]["description"]
    file, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert (ROOT / file).read_text() == RUNBOOK
    assert anchor == rule["alert"].lower()


def test_the_runbook_begins_with_the_way_back_and_has_a_section_for_every_alert() -> None:
    alerts, _, _ = RUNBOOK.partition("\n# ")  # then come tasks
    first, *sections = re.split(r"^## ", alerts, flags=re.MULTILINE)[1:]
    assert first.startswith("A bad release at night: roll back\n")
    assert [section.splitlines()[0] for section in sections] == list(
        dict.fromkeys(rule["alert"] for rule in ALERTS)
    )
    for section in sections:
        assert re.findall(r"^\*\*(\w+)\.\*\*", section, re.MULTILINE) == ["Meaning", "Check", "Fix"]


def test_the_settings_that_the_runbook_names_exist() -> None:
    valid = {PREFIX + name.upper() for name in Settings.model_fields}
    assert set(re.findall(PREFIX + r"[A-Z_]*[A-Z]", RUNBOOK)) <= valid


def test_recorded_names_are_level_metric_operations() -> None:
    for rule in _rules("record"):
        level, metric, operations = rule["record"].split(":")
        assert metric.startswith("labrador_") and operations
        assert set(level.split("_")) <= {"job", "model", "label", "le", "code"}


def test_every_rule_keeps_the_cluster_and_the_namespace() -> None:
    """`absent` cannot: it knows only the labels that it asks for."""
    for kind in ("record", "alert"):
        for rule in _rules(kind):
            if "absent(" in rule["expr"]:
                continue
            groupings = re.findall(r"\b(?:by|on|ignoring|without) *\(([^)]*)\)", rule["expr"])
            assert all(each.startswith("cluster, namespace, job") for each in groupings), rule
            aggregating = r"(?<!:)\b(?:sum|avg|min|max|count)\b(?! by \(cluster, namespace, job)"
            assert not re.search(aggregating, rule["expr"]), rule


def test_the_operator_gets_the_same_rules_with_links_that_open() -> None:
    assert prometheus_rule.FILE.read_text() == prometheus_rule.text(), (
        "run python -m scripts.prometheus_rule"
    )
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is missing")
    command = ["kubectl", "kustomize", str(prometheus_rule.FILE.parent)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    objects = {each["kind"]: each for each in yaml.safe_load_all(done.stdout)}
    assert objects.keys() == {"ServiceMonitor", "PrometheusRule"}
    setting = yaml.safe_load((prometheus_rule.FILE.parent / "runbook.yaml").read_text())
    assert setting["data"]["url"].startswith("https://")
    expected = [
        group
        for file in RULE_FILES
        if file.stem != "cuda"
        for group in yaml.safe_load(file.read_text())["groups"]
    ]
    for group in expected:
        for rule in group["rules"]:
            if "annotations" in rule:
                _, _, anchor = rule["annotations"]["runbook_url"].partition("#")
                rule["annotations"]["runbook_url"] = f"{setting['data']['url']}#{anchor}"
    found = {group["name"]: group for group in objects["PrometheusRule"]["spec"]["groups"]}
    assert found == {group["name"]: group for group in expected}


@needs_promtool
def test_every_query_of_the_dashboard_is_valid_and_of_the_namespace(tmp_path: Path) -> None:
    """Those of the cluster's metrics too, which no test here can have."""
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "dashboard.json").read_text())
    queries = [
        target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())
    ]
    assert all('namespace=~"$namespace"' in query for query in queries)
    file = tmp_path / "rules.yml"
    rules = [
        {"record": f"query:{number}", "expr": query.replace("$__rate_interval", "1m")}
        for number, query in enumerate(queries)
    ]
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    checked = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_prediction_endpoint_is_counted() -> None:
    paths = specification(Settings())["paths"]
    asking = {path.rpartition("/")[2] for path, methods in paths.items() if "post" in methods}
    scaling = ROOT / "deploy" / "kubernetes" / "keda" / "scaled-object.yaml"
    texts = [file.read_text() for file in (*RULE_FILES, scaling)]
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "dashboard.json").read_text())
    texts += [
        target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())
    ]
    matchers = set(re.findall(r'endpoint=~"([^"]*)"', "\n".join(texts)))
    assert [set(matcher.split("|")) for matcher in matchers] == [asking]
