"""The gate: from bytes to probability, the exported network must be the trained one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from models import golden
from models.bundle import Bundle
from models.errors import GateError
from models.manifest import Gate, Precision, Task, Variant
from training import evaluate, metrics, runtime
from training.network import Served

_BATCH = 64
_DOMAINS = {"", "com.microsoft"}


@dataclass(frozen=True)
class Tolerance:
    """How far a precision may be off: any score, and by how much the headline may be worse."""

    score: float
    loss: float


TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(golden.TOLERANCE_CPU, 0.01),
    "fp16": Tolerance(0.01, 0.01),
    "int8": Tolerance(0.25, 0.01),
}


@dataclass(frozen=True)
class Reference:
    """The trained network's answers to the held-out images.

    images: preprocessed uint8 `[N, S, S, 3]`; truth: the labels of each; scores: `[N, C]`, by the
    network's own `labels` in its order; `thresholds` are the network's, too.
    """

    images: NDArray[np.uint8]
    truth: Sequence[Sequence[str]]
    scores: NDArray[np.float32]
    labels: Sequence[str]
    thresholds: Sequence[float] | None


def unmeasured(precision: Precision) -> Gate:
    """What a draft's manifest says before `check`."""
    tolerance = TOLERANCES[precision].score
    return Gate(tolerance=tolerance, max_difference=0, flips=0, metrics={})


def check(bundle: Bundle, variant: Variant, reference: Reference) -> Gate:
    """Hold one file of a bundle against the trained network; what was measured.

    Raises GateError unless the graph has the promised form, the golden files and all held-out
    images give the network's scores within the precision's tolerance, and the decisions, by name,
    are as often right as the network's.
    """
    manifest = bundle.manifest
    tolerance = TOLERANCES[variant.precision]
    model = bundle.files[variant.file]
    _check_graph(model)
    run = runtime.runner(model, manifest.tensors)
    try:
        on_golden = golden.check(bundle, run, tolerance.score)
        got = run(reference.images)
        on_held_out = golden.compare(reference.scores, got, manifest, tolerance.score)
    except GateError as error:
        raise GateError(f"{variant.precision}: {error}") from error
    flips = on_golden.flips + on_held_out.flips
    task = manifest.task
    trained = _figures(reference.scores, reference.labels, reference.thresholds, task, reference)
    exported = _figures(got, manifest.labels, manifest.thresholds, task, reference)
    for name, value in exported.items():
        if not abs(value - trained[name]) <= tolerance.score + flips / len(got):
            raise GateError(
                f"{variant.precision}: {name} on {len(got)} validation images is {value:.4f}, the"
                f" trained network's {trained[name]:.4f}: the labels or thresholds are not the"
                " network's"
            )
    _check_loss(trained, exported, variant.precision, task)
    worst = max(on_golden.max_difference, on_held_out.max_difference)
    return Gate(tolerance=tolerance.score, max_difference=worst, flips=flips, metrics=exported)


@torch.inference_mode()
def reference_scores(reference: Served, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The trained network's scores in float32 on the CPU. images: uint8 `[N, S, S, 3]`."""
    batches = torch.split(torch.from_numpy(images), _BATCH)
    return torch.cat([reference(batch)[0] for batch in batches]).numpy()


def _check_loss(
    trained: dict[str, float], exported: dict[str, float], precision: Precision, task: Task
) -> None:
    name, allowed = evaluate.HEADLINE[task], TOLERANCES[precision].loss
    loss = (exported[name] - trained[name]) * (1 if task == "single" else -1)
    if not loss <= allowed:
        raise GateError(
            f"{precision}: {name} on the validation images is {exported[name]:.4f}, the trained"
            f" network's {trained[name]:.4f}: {loss:.4f} worse, more than {allowed:g}"
        )


def _figures(
    scores: NDArray[np.float32],
    labels: Sequence[str],
    thresholds: Sequence[float] | None,
    task: Task,
    reference: Reference,
) -> dict[str, float]:
    targets = evaluate.truth(reference.truth, labels)
    said = evaluate.decide(scores, thresholds)
    return metrics.values(evaluate.figures(task, scores, said, targets), len(scores))


def _check_graph(model: bytes) -> None:
    graph = onnx.load_from_string(model)
    if strange := {entry.domain for entry in graph.opset_import} - _DOMAINS:
        raise GateError(f"the graph uses operators of {', '.join(sorted(strange))}")
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.graph.initializer):
        raise GateError("the graph keeps weights outside of its file")
