"""`export`: export a run to a bundle in the store, through the gate."""

from collections.abc import Sequence
from pathlib import Path

from models.bundle import read_manifest
from models.manifest import Precision
from models.store import Store
from models.wording import counted
from training.export import export as exporting
from training.run_folder import Run


def export(
    run: Run, name: str, store: Store, data_path: str | None, precisions: Sequence[Precision]
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
    for variant in manifest.variants:
        gate = variant.gate
        print(
            f"gate of {variant.precision} passed: scores differ by at most"
            f" {gate.max_difference:.1e} (tolerance {gate.tolerance:.0e}),"
            f" {counted(gate.flips, 'decision')} changed"
        )
    name = manifest.name
    print(f"wrote {path}; version {store.released(name)} of {name} is released")
