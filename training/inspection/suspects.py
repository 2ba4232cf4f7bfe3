"""The labels that are probably wrong, as corrections, and in words."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from models.manifest import Task
from models.wording import counted
from training.data.corrections import Correction
from training.data.record import Record
from training.data.targets import encode
from training.inspection import confident_learning, out_of_fold
from training.inspection.confident_learning import Issue
from training.recipe import Recipe

_SHOWN = 5  # the rest is in suspects.csv


@dataclass(frozen=True)
class Suspects:
    """corrections: the surest first. judged: how many of the images had all their labels judged."""

    corrections: list[Correction]
    judged: int
    images: int


def find(
    root: Path,
    records: Sequence[Record],
    labels: Sequence[str],
    task: Task,
    recipe: Recipe,
    device: torch.device,
) -> Suspects:
    """Judge each image's labels by heads that were trained on the others; minutes, not hours.

    The records must be usable, have their hashes and groups, and labels that `train` accepts.
    """
    features = out_of_fold.features([root / record.file for record in records], recipe, device)
    targets = encode(records, labels)
    folds = out_of_fold.folds(records, recipe.seed)
    scores = out_of_fold.scores(features, targets, task, folds, device)
    issues = confident_learning.find(scores, targets, task)
    judged = ~(np.isnan(scores) & targets).any(1)
    return Suspects(corrections_of(issues, records, labels), int(judged.sum()), len(records))


def corrections_of(
    issues: Sequence[Issue], records: Sequence[Record], labels: Sequence[str]
) -> list[Correction]:
    """The issues by the names of files and labels."""
    names = ["", *labels]
    return [
        Correction(
            records[issue.row].file,
            names[0 if issue.given is None else issue.given + 1],
            names[0 if issue.suggested is None else issue.suggested + 1],
            issue.sure,
        )
        for issue in issues
    ]


def lines(suspects: Suspects) -> Iterator[str]:
    found = suspects.corrections
    yield "\nLabels"
    images = len({correction.file for correction in found})
    yield (
        f"  {counted(len(found), 'suspect label')} in {counted(images, 'image')}"
        f"{', the surest:' if found else ''}"
    )
    yield from (f"    {in_words(correction)}" for correction in found[:_SHOWN])
    if unjudged := suspects.images - suspects.judged:
        yield (
            f"  {counted(unjudged, 'image')} not judged: no image that differs from them has their"
            " label"
        )


def in_words(correction: Correction) -> str:
    given, suggested = correction.given, correction.suggested
    if given and suggested:
        change = f"{given!r} may be {suggested!r}"
    else:
        change = f"{given!r} may be wrong" if given else f"{suggested!r} may be missing"
    return f"{correction.file}: {change} ({correction.sure:.3f})"
