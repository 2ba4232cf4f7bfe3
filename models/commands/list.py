"""`list`: the versions in a store, which is released, since when, and why."""

import json
from collections.abc import Sequence
from typing import Any

from models.errors import BundleError
from models.manifest import Manifest, Metric
from models.store import Store


def list_versions(store: Store, name: str | None, as_json: bool) -> None:
    """Print all versions, also if one is damaged; then raises BundleError that names it."""
    models = [_model(store, one) for one in store.chosen(name)]
    if as_json:
        print(json.dumps(models, indent=2))
    else:
        print("\n\n".join(_text(model) for model in models))
    problems = [found for model in models for found in (model, *model["versions"])]
    if problems := [found["problem"] for found in problems if found["problem"]]:
        raise BundleError("; ".join(problems))


def metric_text(name: str, metric: Metric) -> str:
    return f"{name} {metric.value:.3f} [{metric.low:.3f}, {metric.high:.3f}]"


def _model(store: Store, name: str) -> dict[str, Any]:
    model: dict[str, Any] = {"name": name, "released": None, "released_since": None}
    problem = None
    try:
        model["released"] = store.released(name)
        model["released_since"] = store.released_since(name)
    except (BundleError, OSError) as error:
        problem = str(error)
    versions = [_version(store, name, version) for version in store.versions(name)]
    return {**model, "problem": problem, "versions": versions}


def _version(store: Store, name: str, version: int) -> dict[str, Any]:
    reference = f"{name}:{version}"
    found = {"version": version, "bytes": store.size_bytes(reference)}
    try:
        manifest = store.manifest(reference)
    except (BundleError, OSError) as error:
        return {**found, "problem": str(error)}
    chosen = manifest.model_dump(mode="json", include={"task", "metrics", "release"})
    created = manifest.provenance.created
    return {**found, "problem": None, "created": created, "why": why(manifest), **chosen}


def why(manifest: Manifest) -> str:
    """The decision to release the version, in a few words."""
    decision = manifest.release
    if decision is None:
        return "exported, not compared with another version"
    forced = ", forced" if decision.forced else ""
    replaced = f"; it replaced version {decision.replaced}" if decision.replaced else ""
    return f"{decision.verdict}{forced}{replaced}"


def _text(model: dict[str, Any]) -> str:
    since = f"version {model['released']} is released since {model['released_since']}"
    head = f"{model['name']}: {model['problem'] or since}"
    rows = [_row(version, model["released"]) for version in model["versions"]]
    return "\n".join([head, *aligned(rows)])


def _row(found: dict[str, Any], released: int | None) -> list[str]:
    mark = "*" if found["version"] == released else " "
    row = [f"{mark} {found['version']}", f"{found['bytes'] / 1e6:.1f} MB"]
    if found["problem"]:
        return [*row, "", "", found["problem"]]
    name, metric = next(iter(found["metrics"].items()), (None, None))
    shown = metric_text(name, Metric(**metric)) if name and metric else ""
    return [*row, found["created"], shown, found["why"]]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows as lines, with the columns padded to the same width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
