"""Evaluates a run or a bundle on images, with the decisions that serving would make."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.bundle import sha256, write_atomically
from models.errors import DataError
from models.manifest import Metric, Task
from models.outputs import Outputs
from models.wording import counted
from training.data import csv_tables, decoding
from training.data.datasets import Dataset
from training.data.record import Record
from training.data.targets import encode
from training.evaluation import calibration, calibration_error, error_analysis, metrics, promises
from training.evaluation.decisions import calibration_pairs, decide
from training.evaluation.error_analysis import LabelMetrics
from training.evaluation.metrics import WeightedMetrics
from training.evaluation.promises import Judged
from training.evaluation.scorer import Scorer

METRICS_FILE = "metrics.json"
PREDICTIONS_FILE = "predictions.csv"
HEADLINE: dict[Task, str] = {"single": "error", "multi": "map"}


@dataclass(frozen=True)
class Evaluation:
    """A model's predictions for images that it was not trained on. Arrays are `[N, C]`.

    images_at: the images at some rows, as served, uint8 `[n, S, S, 3]`. scores and predicted: the
    output of the model as shipped; uncalibrated: the scores at temperature 1; judged: by held-out
    images, None for a model without novelty.
    """

    task: Task
    labels: Sequence[str]
    records: Sequence[Record]
    images_at: Callable[[Sequence[int]], NDArray[np.uint8]]
    targets: NDArray[np.bool_]
    scores: NDArray[np.float32]
    uncalibrated: NDArray[np.float32]
    predicted: NDArray[np.bool_]
    judged: Judged | None = None

    @cached_property
    def by_label(self) -> list[LabelMetrics]:
        return error_analysis.by_label(self.scores, self.predicted, self.targets, self.labels)

    def measure(self) -> dict[str, Metric]:
        """The task's metrics with intervals; rms_calibration_error also at temperature 1."""
        shipped = task_metrics(self.task, self.scores, self.predicted, self.targets)
        return {
            **metrics.with_intervals(shipped, len(self.scores)),
            "rms_calibration_error": self._calibration(self.scores),
            "rms_calibration_error_uncalibrated": self._calibration(self.uncalibrated),
        }

    def _calibration(self, scores: NDArray[np.float32]) -> Metric:
        return calibration_error.measure(*calibration_pairs(self.task, scores, self.targets))


def evaluate(model: Scorer, dataset: Dataset) -> Evaluation:
    """Evaluate the model as shipped on the images that it was not trained on; each is opened once.

    Raises DataError if no image is left or the model lacks one of the labels.
    """

    def served(data: bytes) -> tuple[str, NDArray[np.uint8] | None]:
        digest = sha256(data)
        if digest in model.trained_on:
            return digest, None
        return digest, decoding.decode(data, model.preprocess)

    files = [dataset.root / record.file for record in dataset.records]
    results = zip(dataset.records, decoding.decoded(files, served), strict=True)
    left = [
        (replace(r, sha256=h, side="valid"), image)
        for r, (h, image) in results
        if image is not None
    ]
    if not left:
        raise DataError(
            f"the model was trained on all of {counted(len(files), 'image')}: nothing to measure"
        )
    records, images = [record for record, _ in left], np.stack([image for _, image in left])
    targets = encode(records, model.labels)
    outputs = model.answer(images)
    scores = outputs.scores
    return Evaluation(
        model.task,
        model.labels,
        records,
        lambda rows: images[rows],
        targets,
        scores,
        calibration.uncalibrated(scores, model.task, model.temperature),
        decide(scores, model.thresholds),
        promises.judge(outputs, model.held_out),
    )


def cross_fitted(
    task: Task,
    labels: Sequence[str],
    records: Sequence[Record],
    images_at: Callable[[Sequence[int]], NDArray[np.uint8]],
    logits: NDArray[np.float32],
    applied_to: NDArray[np.float32] | None = None,
    novelty: NDArray[np.float32] | None = None,
) -> Evaluation:
    """The evaluation of a trained network, by its logits `[N, C]` for validation images.

    Each image's temperature and thresholds are fitted on others. applied_to: the logits of a
    variant of the network, which is evaluated in its place. novelty: `[N]`, if it is measured.
    """
    targets = encode(records, labels)
    scores, tags = calibration.cross_fitted(logits, targets, task, applied_to)
    return Evaluation(
        task,
        labels,
        records,
        images_at,
        targets,
        scores,
        calibration.probabilities(logits if applied_to is None else applied_to, task, 1.0),
        tags if task == "multi" else decide(scores, None),
        promises.cross_fitted(Outputs(scores, novelty), targets, task),
    )


def task_metrics(
    task: Task, scores: NDArray[np.float32], tags: NDArray[np.bool_], targets: NDArray[np.bool_]
) -> WeightedMetrics:
    """The task's metrics; targets as `encode` gives them; tags matter for multi-label only."""
    if task == "single":
        return metrics.single_label(scores, targets.argmax(1))
    return metrics.multi_label(scores, targets, tags)


def write(folder: Path, evaluation: Evaluation, measured: dict[str, Metric]) -> None:
    """`metrics.json`, and `predictions.csv` with the columns path, target and one per label."""
    records, labels = evaluation.records, evaluation.labels
    content = {
        "images": len(records),
        **{name: metric.model_dump() for name, metric in measured.items()},
        "labels": [asdict(label) for label in evaluation.by_label],
    }
    write_atomically(folder / METRICS_FILE, json.dumps(content, indent=2).encode())
    rows = (
        (record.file, " ".join(record.labels), *row.tolist())
        for record, row in zip(records, evaluation.scores, strict=True)
    )
    csv_tables.write(folder / PREDICTIONS_FILE, ["path", "target", *labels], rows)


def against_validation(model: Scorer, measured: Mapping[str, Metric]) -> str | None:
    """How the headline metric differs from the model's own on its validation images, in words.

    None where they are equal, as on those very images.
    """
    name = HEADLINE[model.task]
    here, there = measured[name], model.metrics[name]
    change = metrics.difference(here, there)
    if change.value == 0:
        return None
    by_chance = change.low <= 0 <= change.high
    verdict = "chance alone can explain it" if by_chance else "more than chance explains"
    return (
        f"{name} was {there.value:.4f} on the model's own validation images: a difference of"
        f" {change.value:+.4f} [{change.low:+.4f}, {change.high:+.4f}], {verdict}"
    )


def table(measured: dict[str, Metric]) -> str:
    """The metrics as text: value and 95 % interval, a line each."""
    width = max(map(len, measured)) + 2
    return "\n".join(
        f"  {name:{width}}{metric.value:.4f}   [{metric.low:.4f}, {metric.high:.4f}]"
        for name, metric in measured.items()
    )
