"""In what the runs were made differently: options, images, weights, code, machine."""

from collections.abc import Sequence

from training.recipe import Recipe
from training.run_folder import Run

Row = tuple[str, Sequence[str]]
"""What differs, and its value in each run."""

_SHORT = 12  # characters of a hash


def of(runs: Sequence[Run]) -> list[Row]:
    """Only what differs, options of the recipe first."""
    recipes = [run.recipe for run in runs]
    rows: list[Row] = [
        (f"--{name.replace('_', '-')}" if name != "data" else "DATA", values)
        for name in Recipe.model_fields
        if len(set(values := [_shown(getattr(recipe, name)) for recipe in recipes])) > 1
    ]
    about = [_about(run) for run in runs]
    names = dict.fromkeys(name for one in about for name in one)
    found = [(name, [_shown(one.get(name)) for one in about]) for name in names]
    return [*rows, *((name, values) for name, values in found if len(set(values)) > 1)]


def _about(run: Run) -> dict[str, str | None]:
    origin = run.outcome.provenance
    return {
        "fingerprint of images and split": origin.data_fingerprint[:_SHORT],
        "training images": f"{len(run.split.train):,}",
        "validation images": f"{len(run.split.valid):,}",
        "initial weights": origin.weights,
        "code": origin.git_commit,
        "processor": origin.processor,
        **origin.libraries,
    }


def _shown(value: object) -> str:
    return "–" if value is None else str(value)
