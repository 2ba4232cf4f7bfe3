"""The first lines of a report: how good the model is, how certain that is, and what to do next."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.manifest import Metric
from models.wording import counted, some
from training.evaluation import error_analysis
from training.evaluation.evaluate import HEADLINE, Evaluation
from training.run_folder import Epoch

_FEW_IMAGES = 10
_RISEN = 1.05  # a validation loss this many times its best is more than noise


@dataclass(frozen=True)
class Verdict:
    headline: str
    certainty: str
    notes: list[str]


def of(
    evaluation: Evaluation,
    measured: dict[str, Metric],
    epochs: Sequence[Epoch],
    best_kept: bool = False,
) -> Verdict:
    """epochs: the run's; empty unless it was just trained. best_kept: its weights are those of the
    best epoch, not of the last.
    """
    images = counted(len(evaluation.records), "image")
    metric = measured[HEADLINE[evaluation.task]]
    share = evaluation.targets.mean(0)
    if evaluation.task == "single":
        headline = f"Wrong on {metric.value:.1%} of {images}"
        certainty = (
            f"Between {metric.low:.1%} and {metric.high:.1%} with 95 % confidence. Always"
            f" predicting “{evaluation.labels[int(share.argmax())]}” would be wrong on"
            f" {1 - share.max():.1%}."
        )
    else:
        chance = float(share[share > 0].mean())
        headline = f"Mean average precision {metric.value:.3f} on {images}"
        certainty = (
            f"Between {metric.low:.3f} and {metric.high:.3f} with 95 % confidence; random"
            f" tags would reach about {chance:.3f}. {measured['accuracy_multi'].value:.1%} of"
            " image-label pairs are right; predicting no tags would reach"
            f" {measured['accuracy_all_negative'].value:.1%}."
        )
    notes = [*_calibration(measured), *_labels(evaluation), *_training(epochs, best_kept)]
    return Verdict(headline, certainty, notes)


def _calibration(measured: dict[str, Metric]) -> list[str]:
    before = measured["rms_calibration_error_uncalibrated"]
    after = measured["rms_calibration_error"]
    return [
        f"Its probabilities are off by {after.value:.1%}, root mean square, between"
        f" {after.low:.1%} and {after.high:.1%} with 95 % confidence ({before.value:.1%} before"
        " calibration)."
    ]


def _labels(evaluation: Evaluation) -> list[str]:
    notes = []
    counts = evaluation.targets.sum(0)
    few = [label for label, n in zip(evaluation.labels, counts, strict=True) if n < _FEW_IMAGES]
    if few:
        notes.append(
            f"{len(few)} of {counted(len(counts), 'label')} with fewer than {_FEW_IMAGES} images"
            f" here, too few for metrics of their own: {some(few, 3)}."
        )
    if evaluation.task == "single":
        matrix = error_analysis.confusion(evaluation.predicted, evaluation.targets)
        for pair in error_analysis.most_confused(matrix, evaluation.labels, min_count=2)[:1]:
            notes.append(
                f"Most often, {pair.true} is predicted as {pair.predicted}: {pair.count} times."
            )
    return notes


def _training(epochs: Sequence[Epoch], best_kept: bool) -> list[str]:
    last = [epoch for epoch in epochs if epoch.phase == epochs[-1].phase]
    losses = [epoch.valid_loss for epoch in last if epoch.valid_loss is not None]
    if len(losses) < 2:
        return []
    best = int(np.argmin(losses))
    if losses[-1] > _RISEN * losses[best]:
        if best_kept:  # what came after it is not in the weights
            return []
        return [
            f"It overfits: the validation loss was lowest after epoch {best + 1} of {len(losses)}"
            " and has risen since. Fewer epochs, more images or stronger augmentation may help."
        ]
    if best == len(losses) - 1 and losses[-1] < losses[-2] / _RISEN:
        return ["The validation loss was still falling in the last epoch: more epochs may help."]
    return []
