"""The images that finished runs can be compared on: those that all of them held out."""

from collections.abc import Sequence
from dataclasses import dataclass

from models.errors import RunError
from models.wording import counted, some
from training.data.record import Record
from training.run_folder import Run


@dataclass(frozen=True)
class HeldOut:
    """The validation images that all runs share, as the first one has them.

    only: of each run, the number of its validation images that another was trained on or never
    had. relabelled: those that have other labels in another run; they are left out.
    """

    records: Sequence[Record]
    only: Sequence[int]
    relabelled: Sequence[Record]


def find(runs: Sequence[Run]) -> HeldOut:
    """The images to judge the runs on.

    Raises RunError if their tasks or labels differ, or if no image is left.
    """
    first, *others = runs
    for other in others:
        _refuse_different(first, other)
    sides = [{record.sha256: record for record in run.split.valid} for run in runs]
    trained_on = {record.sha256 for run in runs for record in run.split.train}
    shared = set.intersection(*map(set, sides)) - trained_on
    if not shared:
        raise RunError(
            f"no image is in the validation images of all of {_names(runs)}: compare runs on the"
            " same data with the same --seed and --valid, or evaluate each on other images"
        )
    relabelled = {
        digest
        for digest in shared
        if any(set(side[digest].labels) != set(sides[0][digest].labels) for side in sides)
    }
    records = [record for record in first.split.valid if record.sha256 in shared]
    kept = [record for record in records if record.sha256 not in relabelled]
    if not kept:
        raise RunError(
            f"each of the {counted(len(records), 'image')} that all of {_names(runs)} held out has"
            f" other labels in one of them, such as {records[0].file}: nothing can be compared"
        )
    return HeldOut(
        kept,
        [sum(record.sha256 not in shared for record in run.split.valid) for run in runs],
        [record for record in records if record.sha256 in relabelled],
    )


def _refuse_different(first: Run, other: Run) -> None:
    ours, theirs = first.outcome, other.outcome
    if ours.task != theirs.task:
        raise RunError(
            f"{first.path} is {ours.task}-label and {other.path} is {theirs.task}-label: only runs"
            " of the same task can be compared"
        )
    for run, more in (
        (first, sorted({*ours.labels} - {*theirs.labels})),
        (other, sorted({*theirs.labels} - {*ours.labels})),
    ):
        if more:
            raise RunError(
                f"the labels differ: only {run.path} has {some(more)}; compare runs with the same"
                " labels (train --relabel renames and merges them)"
            )


def _names(runs: Sequence[Run]) -> str:
    return " and ".join(str(run.path) for run in runs)
