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
from models.manifest import Gate, Task
from training import evaluate, metrics, runtime
from training.network import Served

_BATCH = 64
_DOMAINS = {"", "com.microsoft"}
UNMEASURED = Gate(tolerance=golden.TOLERANCE_CPU, max_difference=0, flips=0, metrics={})


@dataclass(frozen=True)
class Validation:
    """The held-out images, preprocessed uint8 `[N, S, S, 3]`, and the labels of each."""

    images: NDArray[np.uint8]
    labels: Sequence[Sequence[str]]


def check(
    bundle: Bundle,
    reference: Served,
    labels: Sequence[str],
    thresholds: Sequence[float] | None,
    validation: Validation,
) -> Gate:
    """Hold a bundle against the trained network; what was measured.

    `labels`, in its order, and `thresholds` are the network's own. Raises GateError unless the
    graph has the promised form, the golden files and all validation images give the network's
    scores within the tolerance, and the decisions, by name, are as often right as the network's.
    """
    manifest = bundle.manifest
    _check_graph(bundle)
    run = runtime.runner(bundle.model, manifest.tensors)
    on_golden = golden.check(bundle, run, golden.TOLERANCE_CPU)
    expected = reference_scores(reference, validation.images)
    got = run(validation.images)
    on_validation = golden.compare(expected, got, manifest, golden.TOLERANCE_CPU)
    flips = on_golden.flips + on_validation.flips
    task = manifest.task
    trained = _figures(expected, labels, thresholds, task, validation)
    exported = _figures(got, manifest.labels, manifest.thresholds, task, validation)
    for name, value in exported.items():
        if not abs(value - trained[name]) <= golden.TOLERANCE_CPU + flips / len(got):
            raise GateError(
                f"{name} on {len(got)} validation images is {value:.4f}, the trained network's"
                f" {trained[name]:.4f}: the labels or thresholds are not the network's"
            )
    worst = max(on_golden.max_difference, on_validation.max_difference)
    return Gate(tolerance=golden.TOLERANCE_CPU, max_difference=worst, flips=flips, metrics=exported)


@torch.inference_mode()
def reference_scores(reference: Served, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The trained network's scores in float32 on the CPU. images: uint8 `[N, S, S, 3]`."""
    batches = torch.split(torch.from_numpy(images), _BATCH)
    return torch.cat([reference(batch)[0] for batch in batches]).numpy()


def _figures(
    scores: NDArray[np.float32],
    labels: Sequence[str],
    thresholds: Sequence[float] | None,
    task: Task,
    validation: Validation,
) -> dict[str, float]:
    targets = evaluate.truth(validation.labels, labels)
    said = evaluate.decide(scores, thresholds)
    return metrics.values(evaluate.figures(task, scores, said, targets), len(scores))


def _check_graph(bundle: Bundle) -> None:
    graph = onnx.load_from_string(bundle.model)
    if strange := {entry.domain for entry in graph.opset_import} - _DOMAINS:
        raise GateError(f"the graph uses operators of {', '.join(sorted(strange))}")
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.graph.initializer):
        raise GateError("the graph keeps weights outside of its file")
