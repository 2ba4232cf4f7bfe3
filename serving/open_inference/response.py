"""Answers of the Open Inference Protocol, version 2: JSON, and binary tensors after it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.responses import Response

from models import decision
from models.decision import check_finite
from models.manifest import Manifest
from models.preprocess import Box
from serving.maps import Look
from serving.open_inference.request import HEADER, Inference, Output

_WHOLE: Box = (0.0, 0.0, 1.0, 1.0)  # what pixels that are sent as such cover
_DATATYPES = {"f4": "FP32", "f8": "FP64", "b1": "BOOL"}


@dataclass(frozen=True)
class Tensor:
    """values: float32, float64 or bool of any shape, or strings in row-major order with theirs."""

    shape: Sequence[int]
    values: NDArray[np.float32 | np.float64 | np.bool_] | Sequence[str]

    @property
    def datatype(self) -> str:
        if isinstance(self.values, np.ndarray):
            return _DATATYPES[self.values.dtype.str[1:]]
        return "BYTES"

    def as_json(self) -> list[Any]:
        if isinstance(self.values, np.ndarray):
            return self.values.ravel().tolist()
        return list(self.values)

    def as_bytes(self) -> bytes:
        """Little-endian; each string after its length in bytes, of 4 bytes."""
        if isinstance(self.values, np.ndarray):
            return self.values.astype(self.values.dtype.newbyteorder("<")).tobytes()
        encoded = [value.encode() for value in self.values]
        return b"".join(len(value).to_bytes(4, "little") + value for value in encoded)


def response(asked: Inference, looks: Sequence[Look], manifest: Manifest) -> Response:
    """The outputs that are asked for, in that order. Raises ModelFailed for maps not finite."""
    described: list[dict[str, Any]] = []
    binary: list[bytes] = []
    for output in asked.outputs:
        tensor = _tensor(output, looks, manifest)
        entry: dict[str, Any] = {
            "name": output.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
        }
        if output.binary:
            binary.append(tensor.as_bytes())
            entry["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            entry["data"] = tensor.as_json()
        described.append(entry)
    answer: dict[str, Any] = {
        "model_name": manifest.name,
        "model_version": str(manifest.version),
        "outputs": described,
    }
    if asked.id is not None:
        answer["id"] = asked.id
    text = json.dumps(answer, separators=(",", ":")).encode()
    if not binary:
        return Response(text, media_type="application/json")
    return Response(
        b"".join([text, *binary]),
        headers={HEADER: str(len(text))},
        media_type="application/octet-stream",
    )


def _tensor(output: Output, looks: Sequence[Look], manifest: Manifest) -> Tensor:
    if output.name == "labels":
        return _labels(looks, manifest)
    if output.name in ("p_value", "unknown"):
        found = np.array([getattr(look.novelty, output.name) for look in looks])
        return Tensor(found.shape, found)
    if output.name == "boxes":
        boxes = np.array([look.box or _WHOLE for look in looks], np.float32)
        return Tensor(boxes.shape, boxes)
    if output.name == "maps":
        maps = np.stack([look.maps for look in looks if look.maps is not None])
        check_finite(maps, manifest, "maps")
        return Tensor(maps.shape, maps)
    if output.classes:
        return _classification(looks, manifest, output.classes)
    scores = np.stack([look.scores for look in looks])
    return Tensor(scores.shape, scores)


def _labels(looks: Sequence[Look], manifest: Manifest) -> Tensor:
    """The label of each image `[N, 1]`, or its tags `[N, T]`, most likely first: T is the largest
    number of tags, and empty strings fill the shorter rows.
    """
    if manifest.task == "single":
        rows = [[manifest.labels[int(look.scores.argmax())]] for look in looks]
    else:
        rows = [[tag.label for tag in decision.tag(look.scores, manifest)] for look in looks]
    width = max(map(len, rows))
    padded = [row + [""] * (width - len(row)) for row in rows]
    return Tensor((len(rows), width), list(chain.from_iterable(padded)))


def _classification(looks: Sequence[Look], manifest: Manifest, classes: int) -> Tensor:
    """The best of each image as `score:index:label`, as Triton writes them `[N, classes]`."""
    texts = [
        f"{look.scores[index]:f}:{index}:{manifest.labels[index]}"
        for look in looks
        for index in decision.rank(look.scores)[:classes]
    ]
    return Tensor((len(looks), classes), texts)
