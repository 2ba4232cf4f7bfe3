"""The gate: from image bytes to probabilities, the exported network must match the trained one.

Scores within a tolerance prove too little: where two labels are close, a small change flips the
decision. So a variant must be shown, on the validation images, to lose no more of its headline
metric than its precision may. It is compared as `release` compares models: a variant shown to lose
more is refused, and one not shown to lose less has too few images. Counting decisions shows nothing
with fewer than 268 images (a loss of one point, no decision changed). So a variant whose counted
loss is within the limit also passes by its separation, which changes with every score.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from models import golden
from models.errors import GateError
from models.manifest import Contract, Gate, Manifest, Metric, Precision, Task
from models.wording import counted
from training.data.record import Record
from training.data.targets import encode
from training.evaluation import calibration, comparison, evaluate, metrics, onnx_session
from training.evaluation.comparison import Difference
from training.evaluation.decisions import decide
from training.network.inference import in_batches
from training.network.resnet import Served

_DOMAINS = {"", "com.microsoft"}


class TooFewImagesError(GateError):
    """Too few images to show whether a variant is worse than it may be."""


@dataclass(frozen=True)
class Tolerance:
    """How far a precision may be off: in any score, and in its headline metric."""

    score: float
    loss: float


TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(golden.TOLERANCE_CPU, 0.01),
    "fp16": Tolerance(0.01, 0.01),
    "int8": Tolerance(0.25, 0.01),
}


@dataclass(frozen=True)
class Reference:
    """The trained network's scores for the validation images.

    images: of the records, preprocessed, uint8 `[N, S, S, 3]`; scores: `[N, C]`, in the order of
    the network's own `labels`; `thresholds` and `temperature` are the network's, too. order: the
    rows in the order in which the network was evaluated, on which folds and resamples depend.
    """

    images: NDArray[np.uint8]
    records: Sequence[Record]
    scores: NDArray[np.float32]
    labels: Sequence[str]
    thresholds: Sequence[float] | None
    temperature: float
    order: Sequence[int]


def check(
    model: bytes,
    precision: Precision,
    contract: Contract | Manifest,
    golden_files: Mapping[str, bytes],
    reference: Reference,
) -> Gate:
    """Compare an exported network with the trained one and return what was measured.

    model: the ONNX file; contract: what its bundle will promise; golden_files: the golden images
    and their scores as they will be written, possibly among other files.

    Raises GateError unless the graph has the promised form, the golden files and all validation
    images give the network's scores within the precision's tolerance, the decisions, by label name,
    are right as often as the network's, and the headline metric is not shown to lose more than it
    may; TooFewImagesError if, in fp16 or int8, it is not shown to lose less either.
    """
    tolerance, task = TOLERANCES[precision], contract.task
    _check_graph(model)
    run = onnx_session.runner(model, contract.tensors)
    try:
        on_golden = golden.check_files(golden_files, contract, run, tolerance.score)
        got = run(reference.images)
        on_valid = golden.compare(reference.scores, got, contract, tolerance.score)
    except GateError as error:
        raise GateError(f"{precision}: {error}") from error
    flips = on_golden.flips + on_valid.flips
    trained = _metrics_of(reference.scores, reference.labels, reference.thresholds, task, reference)
    exported = _metrics_of(got, contract.labels, contract.thresholds, task, reference)
    for name, value in exported.items():
        if not abs(value - trained[name]) <= tolerance.score + flips / len(got):
            raise GateError(
                f"{precision}: {name} on {len(got)} validation images is {value:.4f}, the"
                f" trained network's {trained[name]:.4f}: the labels or thresholds are not the"
                " network's"
            )
    loss, separation = _losses(got, contract, reference)
    _check_loss(precision, task, len(got), loss, separation)
    return Gate(
        tolerance=tolerance.score,
        max_difference=max(on_golden.max_difference, on_valid.max_difference),
        flips=flips,
        decisions=on_golden.decisions + on_valid.decisions,
        images=len(got),
        loss=Metric(value=loss.value, low=loss.low, high=loss.high),
        separation_loss=Metric(value=separation.value, low=separation.low, high=separation.high),
        metrics=exported,
        own_metrics=_own_metrics(got, contract, reference),
    )


def reference_scores(reference: Served, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The trained network's scores in float32 on the CPU. images: uint8 `[N, S, S, 3]`."""
    cpu = torch.device("cpu")
    return in_batches(lambda batch: reference(batch)[0], torch.from_numpy(images), cpu)


def _losses(
    scores: NDArray[np.float32], contract: Contract | Manifest, reference: Reference
) -> tuple[Difference, Difference]:
    """What a variant with these scores `[N, C]` loses in its headline metric and in separation."""
    targets = encode(reference.records, contract.labels)
    trained = reference.scores
    separation = comparison.separations(scores, trained, targets)
    if contract.task == "multi":
        return comparison.average_precisions(scores, trained, targets), separation
    wrong, trained_wrong = (
        (decide(answers, None) != targets).any(1) for answers in (scores, trained)
    )
    return comparison.errors(wrong, trained_wrong), separation


def _own_metrics(
    scores: NDArray[np.float32], contract: Contract | Manifest, reference: Reference
) -> dict[str, Metric]:
    """The run's metrics, as they are for a variant with these scores `[N, C]`."""
    task, order = contract.task, np.asarray(reference.order)
    trained, own = (
        calibration.logits_of(each[order], task, reference.temperature)
        for each in (reference.scores, scores)
    )
    return evaluate.cross_fitted(
        task,
        contract.labels,
        [reference.records[row] for row in order],
        lambda rows: reference.images[order[rows]],
        trained,
        own,
    ).measure()


def _check_loss(
    precision: Precision, task: Task, images: int, loss: Difference, separation: Difference
) -> None:
    allowed = TOLERANCES[precision].loss
    seen = (
        f"{100 * loss.value:+.2f} points of {comparison.METRIC[task]} on"
        f" {counted(images, 'validation image')}, between {100 * loss.low:+.2f} and"
        f" {100 * loss.high:+.2f} with 95 % confidence on each side ({100 * allowed:g} allowed)"
    )
    if loss.low > allowed:
        raise GateError(f"{precision}: worse than the trained network: {seen}")
    separates = loss.value <= allowed and separation.high <= allowed
    if precision == "fp32" or loss.high <= allowed or separates:
        return
    needed = comparison.images_needed(loss, allowed)
    if loss.value <= allowed and separation.value < allowed:
        needed = min(needed, comparison.images_needed(separation, allowed))
    raise TooFewImagesError(
        f"{precision}: too few images to tell whether it is worse than the trained network: {seen};"
        f" about {needed:,} validation images would be enough"
    )


def _metrics_of(
    scores: NDArray[np.float32],
    labels: Sequence[str],
    thresholds: Sequence[float] | None,
    task: Task,
    reference: Reference,
) -> dict[str, float]:
    targets = encode(reference.records, labels)
    predicted = decide(scores, thresholds)
    return metrics.values(evaluate.task_metrics(task, scores, predicted, targets), len(scores))


def _check_graph(model: bytes) -> None:
    graph = onnx.load_from_string(model)
    if unknown := {entry.domain for entry in graph.opset_import} - _DOMAINS:
        raise GateError(f"the graph uses operators from {', '.join(sorted(unknown))}")
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.graph.initializer):
        raise GateError("the graph keeps weights outside its file")
