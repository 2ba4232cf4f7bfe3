"""`show`: what the manifest of a version says."""

import json
from collections.abc import Iterator
from typing import Any

from models.commands.list import aligned, metric_text, why
from models.manifest import Manifest, Provenance, Release, Variant
from models.store import Store

_LABELS_SHOWN = 12


def show(store: Store, model: str, as_json: bool) -> None:
    """Print the manifest of `model`, NAME or NAME:VERSION, and whether it is released."""
    name, version = store.resolve(model)
    reference = f"{name}:{version}"
    manifest, address = store.manifest(reference), store.address(reference)
    released = store.released_or_none(name)
    since = store.released_since(name) if released == version else None
    if as_json:
        state = {"released": released == version, "released_since": since}
        found = manifest.model_dump(mode="json")
        print(json.dumps({"path": address, **state, "manifest": found}, indent=2))
        return
    state_text = f"since {since}" if since else f"no; version {released} is" if released else "no"
    rows = [
        ("model", f"{reference}, in {address}"),
        ("files", f"{len(manifest.files)}, {store.size_bytes(reference) / 1e6:.1f} MB"),
        ("released", state_text),
        *_rows(manifest),
    ]
    print("\n".join(aligned(rows)))


def _rows(manifest: Manifest) -> Iterator[tuple[str, str]]:
    labels = list(manifest.labels[:_LABELS_SHOWN])
    if more := len(manifest.labels) - len(labels):
        labels.append(f"and {more} more")
    preprocess = manifest.preprocess
    yield "task", f"{manifest.task}-label"
    yield "labels", f"{len(manifest.labels)}: {', '.join(labels)}"
    yield "input", f"{preprocess.image_size_px} px, crop_fraction {preprocess.crop_fraction}"
    for name, metric in manifest.metrics.items():
        yield "metric", metric_text(name, metric)
    for variant in manifest.variants:
        yield "variant", _variant(variant)
    yield from _provenance(manifest.provenance)
    if manifest.release is None:
        yield "release", why(manifest)
    else:
        yield from _release(manifest.release)


def _variant(variant: Variant) -> str:
    gate = variant.gate
    return (
        f"{variant.file}, {variant.precision}; gate: scores differ by at most"
        f" {gate.max_difference:.2g} (tolerance {gate.tolerance:.2g}) and {gate.flips} decisions on"
        f" {gate.images:,} images; {metric_text('loss', gate.loss)}"
    )


def _provenance(found: Provenance) -> Iterator[tuple[str, str]]:
    yield "created", found.created
    yield "commit", found.git_commit or "unknown"
    yield "data", found.data_fingerprint
    yield "weights", f"{found.weights}, {found.weights_licence}"
    yield "recipe", _pairs(found.recipe) or "unknown"
    yield "libraries", _pairs(found.libraries) or "unknown"
    yield "processor", found.processor


def _release(decision: Release) -> Iterator[tuple[str, str]]:
    yield "release", decision.verdict + (", forced" if decision.forced else "")
    if decision.replaced is not None:
        yield "replaced", f"version {decision.replaced}"
    if decision.difference is not None:
        difference = metric_text("difference", decision.difference)
        yield "compared", f"on {decision.images:,} images; {difference}, margin {decision.margin}"
    if decision.worse_labels:
        yield "worse", ", ".join(decision.worse_labels)
    if decision.allowed_labels:
        yield "allowed", ", ".join(decision.allowed_labels)


def _pairs(found: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in found.items() if value is not None)
