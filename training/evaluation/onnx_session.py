"""ONNX Runtime as the gates and the evaluation use it: on the CPU, from the bytes they hash."""

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from models.golden import Runner
from models.manifest import Tensors

_BATCH = 64


def runner(model: bytes, tensors: Tensors) -> Runner:
    """A function from images uint8 `[N, S, S, 3]`, any N, to scores float32 `[N, C]`."""
    return runners(model, tensors)[0]


def runners(model: bytes, tensors: Tensors) -> tuple[Runner, Runner | None]:
    """The same, and one to maps float32 `[N, C, h, w]` if the network has them; in one session."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    scores = _runner(session, tensors.images, tensors.scores)
    maps = _runner(session, tensors.images, tensors.maps) if tensors.maps else None
    return scores, maps


def _runner(session: onnxruntime.InferenceSession, images_name: str, output: str) -> Runner:

    def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        batches = (images[i : i + _BATCH] for i in range(0, len(images), _BATCH))
        return np.concatenate([session.run([output], {images_name: b})[0] for b in batches])

    return run
