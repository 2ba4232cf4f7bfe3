"""What two runs differ in on the same images: figures, labels, single images.

Each run is judged as its own report judges it: every image with a temperature and thresholds that
were fitted on others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from models.manifest import Task
from training.evaluation import comparison, evaluate
from training.evaluation.comparison import Difference, Regression
from training.evaluation.evaluate import HEADLINE, Evaluation
from training.export import run_images
from training.network.inference import logits_of
from training.run_folder import Run
from training.side_by_side.held_out import HeldOut

LESS_IS_BETTER = {"error", "top5_error", "nll"}
_ABOUT_DATA = {"accuracy_all_negative"}  # the same for every run


@dataclass(frozen=True)
class Contrast:
    """A run against the first one. Differences are this run's figure minus the first's.

    level: of each bound of their intervals. worse, better: labels on which this run differs by more
    than chance. lost, won: rows of the images on which it is wrong in more labels than the first
    run, or in fewer; single-label: where only this run is wrong, or only the first.
    """

    first: str
    name: str
    task: Task
    level: float
    figures: dict[str, Difference]
    worse: Sequence[Regression]
    better: Sequence[Regression]
    lost: Sequence[int]
    won: Sequence[int]

    @property
    def headline(self) -> str:
        return HEADLINE[self.task]


def judge(
    runs: Sequence[Run], held_out: HeldOut, data: Sequence[str] | None, device: torch.device
) -> list[Evaluation]:
    """Each run's evaluation on the shared images, which are read where the first run has them, or
    below the root of `data`. Raises DataError if one is missing or has changed."""
    forms = [run.outcome.preprocess for run in runs]
    found = run_images.images_of(runs[0], held_out.records, data, forms)
    place = {record.file: row for row, record in enumerate(found.records)}
    rows = [place[record.file] for record in held_out.records]  # the order of the runs' reports
    evaluations = []
    for run in runs:
        images = found.images[run.outcome.preprocess][rows]
        logits = logits_of(run.network().to(device), torch.from_numpy(images), device)
        evaluations.append(
            evaluate.cross_fitted(
                run.outcome.task,
                run.outcome.labels,
                held_out.records,
                partial(np.take, images, axis=0),
                logits,
            )
        )
    return evaluations


def contrasts(runs: Sequence[Run], evaluations: Sequence[Evaluation]) -> list[Contrast]:
    """Every other run against the first. The intervals of one figure hold for all of them together,
    with 95 % confidence (Bonferroni)."""
    level = 1 - 0.05 / 2 / (len(runs) - 1)
    return [
        contrast(str(runs[0].path), str(run.path), evaluations[0], evaluation, level)
        for run, evaluation in zip(runs[1:], evaluations[1:], strict=True)
    ]


def contrast(
    first_name: str, name: str, first: Evaluation, other: Evaluation, level: float
) -> Contrast:
    """`other` against `first`, on the same images."""
    images, targets = len(first.records), first.targets
    theirs, ours = (
        evaluate.task_metrics(found.task, found.scores, found.predicted, targets)
        for found in (first, other)
    )
    figures = comparison.figures(ours, theirs, images, level=level)
    first_wrong, wrong = first.predicted != targets, other.predicted != targets
    if first.task == "single":  # exact, where the bootstrap is only nearly so
        figures["error"] = comparison.errors(wrong.any(1), first_wrong.any(1), level=level)
    more = wrong.sum(1) - first_wrong.sum(1)  # single-label: 0 or 2 wrong pairs an image
    return Contrast(
        first_name,
        name,
        first.task,
        level,
        {key: figure for key, figure in figures.items() if key not in _ABOUT_DATA},
        comparison.regressions(wrong, first_wrong, first.labels),
        comparison.regressions(first_wrong, wrong, first.labels),
        np.flatnonzero(more > 0).tolist(),
        np.flatnonzero(more < 0).tolist(),
    )


def direction(name: str, difference: Difference) -> str:
    """`better`, `worse`, or nothing where the interval contains 0."""
    if difference.low <= 0 <= difference.high:
        return ""
    return "better" if (difference.value < 0) == (name in LESS_IS_BETTER) else "worse"
