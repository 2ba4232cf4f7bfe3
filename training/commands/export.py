"""`export`: export a run to a bundle in the store, through the gate."""

import math
import shlex
from collections.abc import Sequence
from pathlib import Path

from models import conformal
from models.bundle import read_manifest
from models.manifest import Conformal, Manifest, Precision
from models.signing.signature import SIGNATURE_FILE, Signer
from models.store import ROOT_VARIABLE, Store, default_location
from models.variants import NAMES, candidates, differing, metrics_of
from models.wording import counted
from training import output
from training.evaluation.evaluate import HEADLINE
from training.export import export as exporting
from training.run_folder import Run
from training.tracking import trackers


def export(
    run: Run,
    name: str,
    store: Store,
    data_path: Sequence[str] | None,
    precisions: Sequence[Precision] | None,
    signer: Signer | None,
) -> None:
    path = exporting.export(run, name, store, data_path, precisions=precisions, signer=signer)
    print_result(path, store)
    trackers.register(run.path, path)
    or_release = "" if store.released(name) == int(path.name) else ", or release"
    output.note(f"next: {serve_command(name, int(path.name), store)}{or_release}")


def serve_command(name: str, version: int, store: Store) -> str:
    """The command line that serves this version from this store."""
    settings = []
    if store.where != default_location():
        settings.append(f"{ROOT_VARIABLE}={shlex.quote(str(store.where))}")
    if store.released(name) != version:
        settings.append(f"LABRADOR_MODELS={name}:{version}")
    return " ".join([*settings, "labrador serve"])


def print_result(path: Path, store: Store) -> None:
    """Print what the gates of the bundle at `path` measured, and which version is released."""
    manifest = read_manifest(path)
    headline = HEADLINE[manifest.task]
    for variant in manifest.variants:
        gate = variant.gate
        metric = metrics_of(manifest, variant)[1][headline]
        output.note(
            f"gate of {variant.precision} passed: scores differ by at most"
            f" {gate.max_difference:.1e} (tolerance {gate.tolerance:g}), {differing(gate)}"
            f" decisions differ, {headline} {metric.value:.4f}"
            f" [{metric.low:.4f}, {metric.high:.4f}]"
        )
    for precision, reason in manifest.left_out.items():
        output.note(f"{precision} left out: {reason}")
    if manifest.conformal is not None:
        output.note(_promised(manifest.conformal))
    name = manifest.name
    signed = ", signed" if (path / SIGNATURE_FILE).exists() else ""
    address, released = store.address(f"{name}:{path.name}"), store.released(name)
    print(f"wrote {address}{signed}; version {released} of {name} is released")
    output.note(f"will serve: {_served(manifest)}; LABRADOR_PRECISION chooses another")


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
