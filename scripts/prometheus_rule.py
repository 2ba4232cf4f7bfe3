"""The Prometheus rules as the object that the Prometheus Operator reads.

python -m scripts.prometheus_rule    # writes deploy/kubernetes/monitoring/prometheus-rule.yaml
"""

from typing import Any

import yaml

from scripts.reference import ROOT

RULES = ROOT / "deploy" / "prometheus"
FILES = (RULES / "recording.yml", RULES / "alerts.yml")  # cuda.yml is for GPUs only
FILE = ROOT / "deploy" / "kubernetes" / "monitoring" / "prometheus-rule.yaml"
_HEAD = (
    "# From deploy/prometheus: change the rules there, and run python -m scripts.prometheus_rule.\n"
)


class _Dumper(yaml.SafeDumper):
    """Writes expressions of several lines as such."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def manifest() -> dict[str, Any]:
    """The PrometheusRule object."""
    groups = [group for file in FILES for group in yaml.safe_load(file.read_text())["groups"]]
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "labrador", "labels": {"app.kubernetes.io/name": "labrador"}},
        "spec": {"groups": groups},
    }


def text() -> str:
    """The whole file."""
    return _HEAD + yaml.dump(manifest(), Dumper=_Dumper, sort_keys=False, width=100)


def main() -> None:
    FILE.write_text(text(), encoding="utf-8")
    print(f"wrote {FILE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
