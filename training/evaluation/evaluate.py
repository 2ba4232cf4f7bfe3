"""How good a run or a bundle is on images, decided exactly as serving decides."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.bundle import write_atomically
from models.decision import above, rank
from models.errors import DataError
from models.manifest import Baseline, Metric, Task
from training.data import decoding
from training.data.datasets import Dataset
from training.data.split import Item
from training.evaluation import calibration, calibration_error, error_analysis, metrics
from training.evaluation.error_analysis import LabelFigures
from training.evaluation.metrics import Figures
from training.evaluation.scorer import Model

METRICS_FILE = "metrics.json"
PREDICTIONS_FILE = "predictions.csv"
HEADLINE: dict[Task, str] = {"single": "error", "multi": "map"}
_CONFIDENCE_BINS = 20
_CONFIDENCE_EDGES = tuple((edge + 1) / _CONFIDENCE_BINS for edge in range(_CONFIDENCE_BINS))


@dataclass(frozen=True)
class Evaluation:
    """What a model answered to images that it was not trained on. Arrays are `[N, C]`.

    items, files: each image as the data set calls it, and where it lies. scores and said: what
    the model answers as it is shipped; uncalibrated: the scores at temperature 1.
    """

    task: Task
    labels: Sequence[str]
    items: Sequence[Item]
    files: Sequence[Path]
    targets: NDArray[np.bool_]
    scores: NDArray[np.float32]
    uncalibrated: NDArray[np.float32]
    said: NDArray[np.bool_]

    @cached_property
    def by_label(self) -> list[LabelFigures]:
        return error_analysis.by_label(self.scores, self.said, self.targets, self.labels)

    def measure(self) -> dict[str, Metric]:
        """The task's figures with intervals; rms_calibration_error also at temperature 1."""
        shipped = figures(self.task, self.scores, self.said, self.targets)
        return {
            **metrics.with_intervals(shipped, len(self.scores)),
            "rms_calibration_error": self._calibration(self.scores),
            "rms_calibration_error_uncalibrated": self._calibration(self.uncalibrated),
        }

    def _calibration(self, scores: NDArray[np.float32]) -> Metric:
        return calibration_error.measure(*claims(self.task, scores, self.targets))


def evaluate(model: Model, dataset: Dataset) -> Evaluation:
    """The model as it is shipped on the images that it was not trained on.

    Raises DataError if no image is left or a label is not the model's.
    """
    files = [dataset.root / example.file for example in dataset.examples]
    kept = [
        (file, Item(example.file, sha256, example.labels, True))
        for file, example, sha256 in zip(
            files, dataset.examples, decoding.hashes(files), strict=True
        )
        if sha256 not in model.trained_on
    ]
    if not kept:
        raise DataError(f"the model was trained on all {len(files)} images: nothing to measure")
    files, items = [file for file, _ in kept], [item for _, item in kept]
    targets = truth([item.labels for item in items], model.labels)
    scores = model.run(decoding.served(files, model.preprocess).numpy())
    return Evaluation(
        model.task,
        model.labels,
        items,
        files,
        targets,
        scores,
        calibration.uncalibrated(scores, model.task, model.temperature),
        decide(scores, model.thresholds),
    )


def truth(labels_of_images: Sequence[Sequence[str]], labels: Sequence[str]) -> NDArray[np.bool_]:
    """Which image has which label: `[N, C]`. DataError on a label that is not the model's."""
    column = {label: number for number, label in enumerate(labels)}
    targets = np.zeros((len(labels_of_images), len(labels)), np.bool_)
    for row, names in enumerate(labels_of_images):
        for name in names:
            if name not in column:
                raise DataError(f"the model has no label {name!r}; it has {', '.join(labels)}")
            targets[row, column[name]] = True
    if not targets.any():
        raise DataError(f"none of the {len(targets)} images has a label: nothing to go by")
    return targets


def figures(
    task: Task, scores: NDArray[np.float32], tags: NDArray[np.bool_], targets: NDArray[np.bool_]
) -> Figures:
    """The task's figures; targets as `truth` gives them; tags count for multi-label only."""
    if task == "single":
        return metrics.single_label(scores, targets.argmax(1))
    return metrics.multi_label(scores, targets, tags)


def claims(
    task: Task, scores: NDArray[np.float32], targets: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """What calibration is about: probabilities said `[N, K]`, and whether each came true.

    Single-label: of the likeliest label (K = 1); multi-label: of every label (K = C).
    """
    if task == "multi":
        return scores, targets
    first = rank(scores)[:, :1]
    return np.take_along_axis(scores, first, 1), np.take_along_axis(targets, first, 1)


def decide(scores: NDArray[np.float32], thresholds: Sequence[float] | None) -> NDArray[np.bool_]:
    """What a model says `[N, C]`: the labels at their thresholds, or the likeliest alone."""
    if thresholds is not None:
        return above(scores, thresholds)
    return np.eye(scores.shape[1], dtype=np.bool_)[rank(scores)[:, 0]]


def baseline(scores: NDArray[np.float32], said: NDArray[np.bool_]) -> Baseline:
    """The reference for drift: how often each label is said, and how confidently."""
    bins = np.searchsorted(_CONFIDENCE_EDGES, scores.max(1))
    counts = np.bincount(np.minimum(bins, _CONFIDENCE_BINS - 1), minlength=_CONFIDENCE_BINS)
    return Baseline(
        label_share=tuple(said.mean(0).tolist()),
        confidence_edges=_CONFIDENCE_EDGES,
        confidence_counts=tuple(counts.tolist()),
    )


def write(folder: Path, evaluation: Evaluation, measured: dict[str, Metric]) -> None:
    """`metrics.json`, and `predictions.csv` with the columns path, target and one a label."""
    items, labels = evaluation.items, evaluation.labels
    content = {
        "images": len(items),
        **{name: metric.model_dump() for name, metric in measured.items()},
        "labels": [asdict(figures) for figures in evaluation.by_label],
    }
    write_atomically(folder / METRICS_FILE, json.dumps(content, indent=2).encode())
    lines = io.StringIO(newline="")
    writer = csv.writer(lines)
    writer.writerow(["path", "target", *labels])
    for item, row in zip(items, evaluation.scores, strict=True):
        writer.writerow([item.file, " ".join(item.labels), *row.tolist()])
    write_atomically(folder / PREDICTIONS_FILE, lines.getvalue().encode())


def table(measured: dict[str, Metric]) -> str:
    """The figures for a person: value and 95 % interval, a line each."""
    width = max(map(len, measured)) + 2
    return "\n".join(
        f"  {name:{width}}{metric.value:.4f}   [{metric.low:.4f}, {metric.high:.4f}]"
        for name, metric in measured.items()
    )
