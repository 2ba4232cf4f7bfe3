"""ONNX Runtime as training's gates and evaluation run it: on the CPU, on the bytes they hash."""

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from models.golden import Runner
from models.manifest import Tensors

_BATCH = 64


def runner(model: bytes, tensors: Tensors, output: str | None = None) -> Runner:
    """A function from images uint8 `[N, S, S, 3]`, any N, to float32 `[N, …]`.

    output: the tensor's name; left out: the scores `[N, C]`.
    """
    name = output or tensors.scores
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

    def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        batches = (images[i : i + _BATCH] for i in range(0, len(images), _BATCH))
        return np.concatenate([session.run([name], {tensors.images: b})[0] for b in batches])

    return run
