"""What else ONNX Runtime can do on a GPU, tried: none of it is in the product.

Each trial is a provider with its options. The service's own are `as served`; the promises are
those of ONNX Runtime's documentation of its execution providers.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from benchmarks.gpu.answering import golden_images, network_of, per_run_s
from benchmarks.gpu.plan import Plan, Values
from models.manifest import Precision
from training.evaluation import onnx_session

CPU, CUDA, TENSORRT = (f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "Tensorrt"))


@dataclass(frozen=True)
class Trial:
    """promise: what it might gain; precisions: of the file; fixed: each batch size needs a session
    of its own, whose tensors never move.
    """

    promise: str
    options: Mapping[str, str] = field(default_factory=dict)
    provider: str = CUDA
    precisions: tuple[Precision, ...] = ("fp32", "fp16")
    fixed: bool = False


TRIALS: dict[str, Trial] = {
    "as served": Trial("what the others are measured by"),
    "quick search": Trial(
        "starts sooner: cuDNN chooses algorithms by rules instead of trying them",
        {"cudnn_conv_algo_search": "HEURISTIC"},
    ),
    "TF32": Trial("fp32 on matrix units, at 10 bits", {"use_tf32": "1"}, precisions=("fp32",)),
    "NHWC": Trial("the layout that matrix units want: no transposes", {"prefer_nhwc": "1"}),
    "CUDA graph": Trial(
        "one launch instead of a hundred: small batches", {"enable_cuda_graph": "1"}, fixed=True
    ),
    "NHWC, CUDA graph": Trial("both", {"prefer_nhwc": "1", "enable_cuda_graph": "1"}, fixed=True),
    "TensorRT": Trial(
        "fused layers in fp16; needs TensorRT's libraries, and a minute to build its engine",
        {"trt_fp16_enable": "1"},
        provider=TENSORRT,
        precisions=("fp32",),
    ),
}


def options_of(plan: Plan, trial: Trial) -> dict[str, str]:
    """The service's options, changed by the trial's."""
    if trial.provider == CUDA:
        return {"use_tf32": "0", **trial.options}
    sizes = {"min": plan.batches[0], "opt": plan.batches[-1], "max": plan.batches[-1]}
    image = f"{plan.size_px}x{plan.size_px}x3"
    shapes = {f"trt_profile_{name}_shapes": f"images:{n}x{image}" for name, n in sizes.items()}
    return {**shapes, **trial.options}


def measure(plan: Plan, name: str, precision: Precision) -> Values:
    """Images in, scores out, with the tensors on the device bound once for each batch size."""
    trial, (found, variant) = TRIALS[name], network_of(plan, precision)
    model, images = found.files[variant.file], golden_images(found)
    exact = onnx_session.runner(found.model, found.manifest.tensors)(images)
    began = time.perf_counter()
    session = _open(plan, trial, model)
    values: Values = {"opens in s": time.perf_counter() - began}
    worst = 0.0
    for batch in plan.batches:
        if trial.fixed and batch != plan.batches[0]:
            session = _open(plan, trial, model)  # a graph is captured for one shape
        bound = _Bound(plan, session, np.resize(images, (batch, *images.shape[1:])))
        began = time.perf_counter()
        scores = bound.run(bound.images)
        values[f"first run at {batch}, s"] = time.perf_counter() - began
        worst = max(worst, float(np.abs(scores - np.resize(exact, scores.shape)).max()))
        values[f"images/s at {batch}"] = batch / per_run_s(plan, bound.run, bound.images)
    return {**values, "largest difference": worst}


def _open(plan: Plan, trial: Trial, model: bytes) -> ort.InferenceSession:
    """Raises RuntimeError where the provider does not run; the CPU stands in for a rehearsal."""
    wanted, options = trial.provider, options_of(plan, trial)
    if plan.device == "cpu":
        wanted, options = CPU, {}
    else:
        ort.preload_dlls()
    session = ort.InferenceSession(model, providers=[(wanted, options)], enable_fallback=0)
    if session.get_providers()[0] != wanted:
        raise RuntimeError(f"{wanted} does not work here: {session.get_providers()[0]} ran instead")
    return session


class _Bound:
    """A session whose images `[N, S, S, 3]` and scores `[N, C]` stay in place on the device."""

    def __init__(self, plan: Plan, session: ort.InferenceSession, images: NDArray[np.uint8]):
        self.images = images
        self._session = session
        self._pixels = ort.OrtValue.ortvalue_from_numpy(images, plan.device, 0)
        labels = session.get_outputs()[0].shape[1]
        self._scores = ort.OrtValue.ortvalue_from_shape_and_type(
            [len(images), labels], np.float32, plan.device, 0
        )
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(session.get_inputs()[0].name, self._pixels)
        self._binding.bind_ortvalue_output(session.get_outputs()[0].name, self._scores)

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self._pixels.update_inplace(images)
        self._session.run_with_iobinding(self._binding)
        scores: NDArray[np.float32] = self._scores.numpy()
        return scores
