"""The input tensors of the Open Inference Protocol: encoded images, or the network's own pixels."""

import binascii
import math
from collections.abc import Sequence
from itertools import chain
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from models.errors import BadParameter, ImageMissing, TooManyImages
from models.manifest import Manifest
from serving.settings import PARTS_MAX

IMAGE, PIXELS = "image", "pixels"
_LENGTH_BYTES = 4  # before each element of binary BYTES, little-endian

Values = list[Any]


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class InputTensor(Strict):
    name: Literal["image", "pixels"]
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = {}
    data: Values | None = None


def images_of(
    tensor: InputTensor, binary: memoryview, manifest: Manifest
) -> Sequence[bytes] | NDArray[np.uint8]:
    """Encoded files, or an array uint8 `[N, S, S, 3]`. binary: what follows the JSON.

    Raises BadParameter, ImageMissing and TooManyImages.
    """
    size = manifest.preprocess.image_size_px
    datatype, rest = ("BYTES", ()) if tensor.name == IMAGE else ("UINT8", (size, size, 3))
    if tensor.datatype != datatype:
        raise BadParameter(
            f"datatype {tensor.datatype!r:.80} of the input {tensor.name}: use {datatype}"
        )
    shape = tuple(tensor.shape)
    if shape[1:] != rest and not (tensor.name == IMAGE and shape[1:] == (1,)):
        expected = ", ".join(map(str, ("N", *rest)))
        raise BadParameter(
            f"shape {_short(tensor.shape)} of the input {tensor.name}: use [{expected}]"
        )
    count = shape[0] if shape else 0
    if count < 1:
        raise ImageMissing(f"the input {tensor.name} has no image")
    if count > PARTS_MAX:
        raise TooManyImages(f"a request has {PARTS_MAX} images at most")
    sized = _is_binary(tensor, binary)
    if tensor.name == IMAGE:
        return _elements(binary, count) if sized else _decoded(tensor, count)
    values = math.prod(shape)
    if not sized:
        return _pixels(tensor, values).reshape(shape)
    if len(binary) != values:
        raise BadParameter(f"the input {PIXELS} has {len(binary)} bytes; its shape has {values}")
    return np.frombuffer(binary, np.uint8).reshape(shape)


def _is_binary(tensor: InputTensor, binary: memoryview) -> bool:
    """Whether the input's data follow the JSON. Raises BadParameter unless they are all of it."""
    check_known(tensor.parameters, ["binary_data_size"], f"the input {tensor.name}")
    size = tensor.parameters.get("binary_data_size")
    if size is None:
        if tensor.data is None:
            raise BadParameter(f"the input {tensor.name} has neither data nor binary_data_size")
        if binary:
            raise BadParameter(
                f"{len(binary)} bytes follow the JSON, but the input {tensor.name} has no"
                " binary_data_size"
            )
        return False
    if tensor.data is not None:
        raise BadParameter(f"the input {tensor.name} has both data and binary_data_size")
    if type(size) is not int or size != len(binary):
        raise BadParameter(
            f"binary_data_size={size!r:.80} of the input {tensor.name}: {len(binary)} bytes follow"
            " the JSON"
        )
    return True


def _elements(binary: memoryview, count: int) -> list[bytes]:
    """The elements of a BYTES tensor, each after its length."""
    images: list[bytes] = []
    place = 0
    while place < len(binary) and len(images) < count:
        start = place + _LENGTH_BYTES
        place = start + int.from_bytes(binary[place:start], "little")
        if start > len(binary) or place > len(binary):
            raise BadParameter(f"element {len(images) + 1} of the input {IMAGE} is cut off")
        images.append(bytes(binary[start:place]))
    if len(images) < count or place < len(binary):
        raise BadParameter(
            f"the input {IMAGE} has {len(images)} elements and {len(binary) - place} bytes more;"
            f" its shape has {count}"
        )
    return images


def _decoded(tensor: InputTensor, count: int) -> list[bytes]:
    """The elements of a BYTES tensor in JSON, in base64: JSON has no other way for bytes."""
    texts = _flat(tensor, count, str)
    try:
        return [binascii.a2b_base64(text, strict_mode=True) for text in texts]
    except ValueError:
        raise BadParameter(
            f"the input {IMAGE} is not base64, as an image in JSON has to be"
        ) from None


def _pixels(tensor: InputTensor, count: int) -> NDArray[np.uint8]:
    values = _flat(tensor, count, int)
    if min(values) < 0 or max(values) > 255:
        raise BadParameter(f"a value of the input {PIXELS} is not from 0 to 255")
    return np.array(values, np.uint8)


def _flat(tensor: InputTensor, count: int, kind: type) -> Values:
    """The values in their order, however they are nested: all of one type, and this many."""
    values = tensor.data or []
    while values and all(type(value) is list for value in values):
        values = list(chain.from_iterable(values))
    if any(type(value) is not kind for value in values):
        what = "a string" if kind is str else "a whole number"
        raise BadParameter(f"a value of the input {tensor.name} is not {what}")
    if len(values) != count:
        raise BadParameter(
            f"the input {tensor.name} has {len(values)} values; its shape has {count}"
        )
    return values


def check_known(parameters: dict[str, Any], valid: Sequence[str], what: str) -> None:
    """Raises BadParameter for a name that is not in `valid`."""
    for name in parameters:
        if name not in valid:
            raise BadParameter(
                f"unknown parameter {name!r:.80} of {what}; valid: {', '.join(valid)}"
            )


def _short(shape: list[int]) -> str:
    return f"{str(shape[:8]):.80}"
