"""The gate: from image bytes to probabilities, the exported network must match the trained one.

Scores within a tolerance prove too little: where two labels are close, a small change flips the
decision. So a variant must be shown, on the validation images, to lose no more of its headline
metric than its precision may. It is compared as `release` compares models: a variant shown to lose
more is refused, and one not shown to lose less has too few images. Counting decisions shows nothing
with fewer than 268 images (a loss of one point, no decision changed). So a variant whose counted
loss is within the limit also passes by its separation, which changes with every score. Its tags, by
the network's thresholds, are judged in the same way.

A variant is served with the network's temperature, which is inside the graph, so its probabilities
must stay calibrated: their root mean square change, which bounds that of the calibration error,
must be shown to be small.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from models import conformal, golden
from models.errors import GateError
from models.golden import Agreement
from models.manifest import Contract, Gate, Manifest, Metric, NoveltyGate, Precision, Task
from models.outputs import Outputs
from models.wording import counted, some
from training.data.record import Record
from training.data.targets import encode
from training.evaluation import calibration, comparison, evaluate, metrics, onnx_session
from training.evaluation.comparison import Difference
from training.evaluation.decisions import decide
from training.evaluation.evaluate import Evaluation
from training.network.inference import in_batches
from training.network.resnet import Served

_DOMAINS = {"", "com.microsoft"}


class TooFewImagesError(GateError):
    """Too few images to show whether a variant is worse than it may be."""


@dataclass(frozen=True)
class Tolerance:
    """How far a precision may be off: in any score, in a metric of its decisions, in its
    probabilities, root mean square, and in any novelty, as a share of it.
    """

    score: float
    loss: float
    change: float
    novelty: float


TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(golden.TOLERANCE_CPU, 0.01, 0.02, golden.NOVELTY_TOLERANCE_CPU),
    "fp16": Tolerance(0.01, 0.01, 0.02, 0.05),
    "int8": Tolerance(0.25, 0.01, 0.02, 0.5),
}


@dataclass(frozen=True)
class Reference:
    """The trained network's scores for the validation images.

    images: of the records, preprocessed, uint8 `[N, S, S, 3]`; scores: `[N, C]`, in the order of
    the network's own `labels`; `thresholds` and `temperature` are the network's, too. order: the
    rows in the order in which the network was evaluated, on which folds and resamples depend.
    novelty: `[N]`, None if the network has none.
    """

    images: NDArray[np.uint8]
    records: Sequence[Record]
    scores: NDArray[np.float32]
    labels: Sequence[str]
    thresholds: Sequence[float] | None
    temperature: float
    order: Sequence[int]
    novelty: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Passed:
    """What was measured of a form that passed, and what it gives for the validation images."""

    gate: Gate
    outputs: Outputs


def check(
    model: bytes,
    precision: Precision,
    contract: Contract | Manifest,
    golden_files: Mapping[str, bytes],
    reference: Reference,
) -> Passed:
    """Compare an exported network with the trained one and return what was measured.

    model: the ONNX file; contract: what its bundle will promise; golden_files: the golden images
    and their outputs as they will be written, possibly among other files.

    Raises GateError unless the graph has the promised form, labels and thresholds are the network's
    own, the golden files and all validation images give the network's scores and novelty within the
    precision's tolerance, and neither the headline metric, the tags nor the probabilities are shown
    to be off by more than they may; TooFewImagesError if, in fp16 or int8, they are not shown to be
    off by less either.
    """
    tolerance, task = TOLERANCES[precision], contract.task
    _check_graph(model)
    for what, promised, trained in (
        ("labels", contract.labels, reference.labels),
        ("thresholds", contract.thresholds or (), reference.thresholds or ()),
    ):
        if list(promised) != list(trained):
            raise GateError(
                f"{precision}: the {what} are {_words(promised)}, the trained network's"
                f" {_words(trained)}"
            )
    answer, _ = onnx_session.answers(model, contract.tensors)
    strange = None if contract.tensors.novelty is None else tolerance.novelty
    try:
        on_golden = golden.check_files(golden_files, contract, answer, tolerance.score, strange)
        outputs = answer(reference.images)
        got = outputs.scores
        on_valid = golden.compare(reference.scores, got, contract, tolerance.score)
        novelty = _novelty_gate(outputs.novelty, reference.novelty, tolerance.novelty, on_golden)
    except GateError as error:
        raise GateError(f"{precision}: {error}") from error
    flips = on_golden.flips + on_valid.flips
    targets = encode(reference.records, contract.labels)
    exported = evaluate.task_metrics(task, got, decide(got, contract.thresholds), targets)
    loss, separation = _losses(got, contract, reference)
    _check_loss(precision, comparison.METRIC[task], len(got), loss, separation)
    own = _cross_fitted(got, contract, reference)
    tags_loss = None
    if task == "multi":
        network = _cross_fitted(reference.scores, contract, reference)
        tags_loss = comparison.tags(own.predicted, network.predicted, own.targets)
        _check_loss(precision, "1 - micro F1", len(got), tags_loss, separation)
    change = comparison.square_changes(*(_probabilities(s, task) for s in (got, reference.scores)))
    _check_change(precision, len(got), change)
    measured = Gate(
        tolerance=tolerance.score,
        max_difference=max(on_golden.max_difference, on_valid.max_difference),
        flips=flips,
        decisions=on_golden.decisions + on_valid.decisions,
        images=len(got),
        loss=loss.metric,
        separation_loss=separation.metric,
        tags_loss=tags_loss and tags_loss.metric,
        probability_change=Metric(
            value=math.sqrt(change.value), low=math.sqrt(change.low), high=math.sqrt(change.high)
        ),
        metrics=metrics.values(exported, len(got)),
        own_metrics=own.measure(),
        novelty=novelty,
    )
    return Passed(measured, outputs)


def reference_outputs(reference: Served, images: NDArray[np.uint8]) -> Outputs:
    """The trained network's in float32 on the CPU, without maps. images: uint8 `[N, S, S, 3]`."""
    cpu = torch.device("cpu")

    def columns(batch: Tensor) -> Tensor:
        scores, _, *novelty = reference(batch)
        return torch.cat([scores, *(each[:, None] for each in novelty)], 1)

    found = in_batches(columns, torch.from_numpy(images), cpu)
    if reference.novelty is None:
        return Outputs(found)
    return Outputs(np.ascontiguousarray(found[:, :-1]), found[:, -1].copy())


def _novelty_gate(
    got: NDArray[np.float32] | None,
    trained: NDArray[np.float32] | None,
    tolerance: float,
    on_golden: Agreement,
) -> NoveltyGate | None:
    """Compare a form's novelty `[N]` of the validation images with the network's. GateError."""
    if trained is None or got is None:
        return None
    difference = golden.compare_novelty(trained, got, tolerance)
    changed = _unknown(got) != _unknown(trained)
    return NoveltyGate(
        tolerance=tolerance,
        max_difference=max(difference, on_golden.novelty_difference or 0.0),
        changed=int(changed.sum()),
    )


def _unknown(novelty: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which of the images `[N]` are unknown by the others, at the least alpha that they promise."""
    p_values = conformal.p_values_among(novelty)
    return np.asarray(p_values <= max(conformal.ALPHA, conformal.least_alpha(len(novelty) - 1)))


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


def _probabilities(scores: NDArray[np.float32], task: Task) -> NDArray[np.float32]:
    """The probabilities `[N, K]` whose calibration is measured."""
    return scores if task == "multi" else scores.max(1, keepdims=True)


def _cross_fitted(
    scores: NDArray[np.float32], contract: Contract | Manifest, reference: Reference
) -> Evaluation:
    """The evaluation of a variant with these scores `[N, C]`, as that of the run."""
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
    )


def _check_loss(
    precision: Precision, metric: str, images: int, loss: Difference, separation: Difference
) -> None:
    allowed = TOLERANCES[precision].loss
    seen = (
        f"{100 * loss.value:+.2f} points of {metric} on"
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


def _check_change(precision: Precision, images: int, change: Difference) -> None:
    """change: the mean square change of the probabilities."""
    allowed = TOLERANCES[precision].change
    if precision == "fp32" or change.high <= allowed**2:
        return
    value, low, high = (100 * math.sqrt(x) for x in (change.value, change.low, change.high))
    seen = (
        f"by {value:.2f} points on {counted(images, 'validation image')} (root mean square),"
        f" between {low:.2f} and {high:.2f} with 95 % confidence on each side"
        f" ({100 * allowed:g} allowed)"
    )
    if change.low > allowed**2:
        raise GateError(f"{precision}: its probabilities differ from the trained network's {seen}")
    raise TooFewImagesError(
        f"{precision}: too few images to tell how far its probabilities differ from the trained"
        f" network's: {seen}; about {comparison.images_needed(change, allowed**2):,} validation"
        " images would be enough"
    )


def _words(values: Sequence[object]) -> str:
    return some([str(value) for value in values]) or "none"


def _check_graph(model: bytes) -> None:
    graph = onnx.load_from_string(model)
    if unknown := {entry.domain for entry in graph.opset_import} - _DOMAINS:
        raise GateError(f"the graph uses operators from {', '.join(sorted(unknown))}")
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.graph.initializer):
        raise GateError("the graph keeps weights outside its file")
