"""ONNX Runtime as training's gates and evaluation run it: on the CPU, on the bytes they hash."""

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from models.golden import Runner
from models.manifest import Tensors

_BATCH = 64


def runner(model: bytes, tensors: Tensors) -> Runner:
    """A function from images uint8 `[N, S, S, 3]`, any N, to scores float32 `[N, C]`."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

    def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        batches = (images[i : i + _BATCH] for i in range(0, len(images), _BATCH))
        scores = [session.run([tensors.scores], {tensors.images: batch})[0] for batch in batches]
        return np.concatenate(scores)

    return run
