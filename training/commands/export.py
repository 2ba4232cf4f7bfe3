"""`export`: export a run to a bundle in the store, through the gate."""

import math
from collections.abc import Sequence
from pathlib import Path

from models import conformal
from models.bundle import read_manifest
from models.manifest import Conformal, Manifest, Precision
from models.store import Store
from models.variants import NAMES, candidates, differing, metrics_of
from models.wording import counted
from training.evaluation.evaluate import HEADLINE
from training.export import export as exporting
from training.run_folder import Run


def export(
    run: Run,
    name: str,
    store: Store,
    data_path: str | None,
    precisions: Sequence[Precision] | None,
) -> None:
    path = exporting.export(run, name, store, data_path, precisions=precisions)
    print_result(path, store)
    if store.released(name) == int(path.name):
        print("next: bentoml serve")
    else:
        print(f"next: bentoml serve with LABRADOR_MODELS={name}:{path.name}, or release")


def print_result(path: Path, store: Store) -> None:
    """Print what the gates of the bundle at `path` measured, and which version is released."""
    manifest = read_manifest(path)
    headline = HEADLINE[manifest.task]
    for variant in manifest.variants:
        gate = variant.gate
        metric = metrics_of(manifest, variant)[1][headline]
        print(
            f"gate of {variant.precision} passed: scores differ by at most"
            f" {gate.max_difference:.1e} (tolerance {gate.tolerance:g}), {differing(gate)}"
            f" decisions differ, {headline} {metric.value:.4f}"
            f" [{metric.low:.4f}, {metric.high:.4f}]"
        )
    for precision, reason in manifest.left_out.items():
        print(f"{precision} left out: {reason}")
    if manifest.conformal is not None:
        print(_promised(manifest.conformal))
    name = manifest.name
    print(f"wrote {path}; version {store.released(name)} of {name} is released")
    print(f"will serve: {_served(manifest)}; LABRADOR_PRECISION chooses another")


def _promised(promised: Conformal) -> str:
    """What the validation images promise about unknown images."""
    alpha, least = promised.alpha, conformal.least_alpha(promised.images)
    images = counted(promised.images, "validation image")
    if least <= alpha:
        return f"unknown: at most {100 * alpha:g} % of images like its {images}"
    return (
        f"unknown: {images} cannot promise alpha {alpha:g}, so nothing is called unknown unless"
        f" alpha is {math.ceil(least * 1000) / 1000:g} or more;"
        f" {conformal.images_for(alpha)} images would be enough"
    )


def _served(manifest: Manifest) -> str:
    """`the faster of fp32 and int8 on a CPU, fp32 on CUDA`."""
    places = []
    for device, name in NAMES.items():
        found = [variant.precision for variant in candidates(manifest.variants, device)]
        places.append(f"{'the faster of ' * (len(found) > 1)}{' and '.join(found)} on {name}")
    return ", ".join(places)
