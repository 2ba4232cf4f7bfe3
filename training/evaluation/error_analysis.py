"""Where a model errs: metrics per label, confused pairs of labels, the costliest images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.decision import above
from models.manifest import Task
from training.evaluation import metrics

Scores = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class LabelMetrics:
    """One label's metrics, from 0 to 1; None where it was never predicted, or never true."""

    label: str
    images: int
    predicted: int
    precision: float | None
    recall: float | None
    average_precision: float | None


@dataclass(frozen=True)
class Confused:
    """How many images of the label `true` were predicted as `predicted`."""

    true: str
    predicted: str
    count: int


@dataclass(frozen=True)
class Mistake:
    """A wrongly predicted image, by its row.

    loss: in nats (multi-label: mean over labels). `predicted` and `true` are the columns that
    explain it. Single-label: the likeliest and the true label; multi-label: the costliest wrong
    label as one of the two, and None as the other.
    """

    row: int
    loss: float
    predicted: int | None
    true: int | None


@dataclass(frozen=True)
class Sweep:
    """What one threshold for all labels would give, `[T]` each, over all image-label pairs."""

    thresholds: NDArray[np.float64]
    micro_f1: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    accuracy: NDArray[np.float64]


def by_label(
    scores: Scores, predicted: Mask, targets: Mask, labels: Sequence[str]
) -> list[LabelMetrics]:
    """The metrics of each label, from scores, predicted labels and targets `[N, C]`."""
    ranked = metrics.label_precisions(scores, targets)
    rows = []
    for column, label in enumerate(labels):
        true, found = int(targets[:, column].sum()), int(predicted[:, column].sum())
        both = int((predicted[:, column] & targets[:, column]).sum())
        rows.append(
            LabelMetrics(
                label,
                images=true,
                predicted=found,
                precision=both / found if found else None,
                recall=both / true if true else None,
                average_precision=float(ranked[column]) if true else None,
            )
        )
    return rows


def confusion(predicted: Mask, targets: Mask) -> NDArray[np.int64]:
    """Images by true label (rows) and predicted label (columns): `[C, C]`. Single-label only."""
    return targets.T.astype(np.int64) @ predicted.astype(np.int64)


def most_confused(
    matrix: NDArray[np.int64], labels: Sequence[str], min_count: int = 1
) -> list[Confused]:
    """Pairs of different labels confused at least `min_count` ≥ 1 times, most often first."""
    wrong = np.where(np.eye(len(labels), dtype=np.bool_), 0, matrix)
    found = [
        Confused(labels[true], labels[predicted], int(wrong[true, predicted]))
        for true, predicted in np.argwhere(wrong >= max(min_count, 1))
    ]
    return sorted(found, key=lambda pair: -pair.count)


def top_losses(
    scores: Scores, predicted: Mask, targets: Mask, task: Task, count: int
) -> list[Mistake]:
    """The `count` wrongly predicted images with the highest loss, highest first."""
    likelihood = np.where(targets, scores, 1 - scores).astype(np.float64)
    costs = -np.log(np.maximum(likelihood, 1e-12))  # [N, C]
    wrong = predicted != targets
    losses = costs[targets] if task == "single" else costs.mean(1)
    rows = np.flatnonzero(wrong.any(1))
    rows = rows[np.argsort(-losses[rows], kind="stable")][:count]
    mistakes = []
    for row in rows.tolist():
        true: int | None
        chosen: int | None
        if task == "single":
            chosen, true = int(predicted[row].argmax()), int(targets[row].argmax())
        else:
            worst = int(np.where(wrong[row], costs[row], -1).argmax())
            chosen, true = (worst, None) if predicted[row, worst] else (None, worst)
        mistakes.append(Mistake(row, float(losses[row]), chosen, true))
    return mistakes


def sweep(scores: Scores, targets: Mask) -> Sweep:
    """One threshold for all labels, 0.01 to 0.99. Multi-label only."""
    thresholds = np.linspace(0.01, 0.99, 99)
    found, right, accuracy = np.array(
        [
            (tags.sum(), (tags & targets).sum(), (tags == targets).mean())
            for tags in (above(scores, threshold) for threshold in thresholds)
        ]
    ).T
    true = targets.sum()
    return Sweep(
        thresholds,
        micro_f1=2 * right / np.maximum(found + true, 1),
        precision=np.where(found > 0, right / np.maximum(found, 1), np.nan),
        recall=right / max(true, 1),
        accuracy=accuracy,
    )
