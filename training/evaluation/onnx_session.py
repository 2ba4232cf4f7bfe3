"""ONNX Runtime as the gates and the evaluation use it: on the CPU, from the bytes they hash."""

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from models.golden import Runner
from models.manifest import Tensors
from models.outputs import Answerer, Outputs

_BATCH = 64


def runner(model: bytes, tensors: Tensors) -> Runner:
    """A function from images uint8 `[N, S, S, 3]`, any N, to scores float32 `[N, C]`."""
    answer, _ = answers(model, tensors)
    return lambda images: answer(images).scores


def answers(model: bytes, tensors: Tensors) -> tuple[Answerer, Runner | None]:
    """A function to all outputs but maps, and one to maps float32 `[N, C, h, w]` if the network has
    them; in one session.
    """
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

    def fetch(images: NDArray[np.uint8], *names: str) -> list[NDArray[np.float32]]:
        batches = (images[i : i + _BATCH] for i in range(0, len(images), _BATCH))
        found = [session.run(names, {tensors.images: batch}) for batch in batches]
        return [np.concatenate(rows) for rows in zip(*found, strict=True)]

    def answer(images: NDArray[np.uint8]) -> Outputs:
        names = [tensors.scores, *([tensors.novelty] if tensors.novelty else [])]
        return Outputs(*fetch(images, *names))

    def maps(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return fetch(images, str(tensors.maps))[0]

    return answer, maps if tensors.maps else None
