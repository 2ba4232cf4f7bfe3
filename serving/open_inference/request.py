"""Requests of the Open Inference Protocol, version 2: JSON, and binary tensors after it.

Specification: kserve/open-inference-protocol, inference_rest.md; binary tensors are Triton's
extension `binary_tensor_data`, `classification` is Triton's too.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from starlette.datastructures import Headers

from models.errors import BadParameter, BodyTooLarge, FormatUnsupported
from models.manifest import Manifest
from serving.open_inference.tensors import IMAGE, InputTensor, Strict, check_known, images_of

HEADER = "inference-header-content-length"
# Reading JSON holds up other requests, by half a second for a million objects or lists, and an
# empty one takes 70 bytes of memory for 3 of the body. A nested tensor of 224 pixels has 201,000.
VALUES_MAX = 2**18
_DIGITS = re.compile(r"[0-9]{1,10}")


class RequestedOutput(Strict):
    name: str
    parameters: dict[str, Any] = {}


class InferenceRequest(Strict):
    """model_name and model_version: not in the specification, but KServe's client sends them."""

    model_name: str | None = None
    model_version: str | None = None
    id: str | None = None
    parameters: dict[str, Any] = {}
    inputs: list[InputTensor] = Field(min_length=1, max_length=1)
    outputs: list[RequestedOutput] = []


@dataclass(frozen=True)
class Output:
    """An output that is asked for. classes: how many of the best are asked for, by name; 0: no
    classification."""

    name: str
    binary: bool
    classes: int = 0


@dataclass(frozen=True)
class Inference:
    """images: encoded files, or arrays uint8 `[S, S, 3]`."""

    id: str | None
    images: Sequence[bytes] | NDArray[np.uint8]
    outputs: Sequence[Output]

    @property
    def maps(self) -> bool:
        return any(output.name == "maps" for output in self.outputs)


def names_of_outputs(manifest: Manifest) -> list[str]:
    """The outputs that may be asked for: novelty and maps only where the network has them."""
    names = ["scores", "labels"]
    if manifest.tensors.novelty is not None:
        names += ["p_value", "unknown"]
    if manifest.tensors.maps is not None:
        names += ["maps", "boxes"]
    return names


def parse(body: bytes, headers: Headers, manifest: Manifest) -> Inference:
    """The request in a body.

    Raises BadParameter, ImageMissing, TooManyImages, BodyTooLarge for too many values in JSON, and
    FormatUnsupported for a compressed body.
    """
    if headers.get("content-encoding", "identity") != "identity":
        raise FormatUnsupported("send the body without a Content-Encoding")
    text, binary = _split(body, headers.get(HEADER))
    if sum(map(text.count, (b",", b"[", b"{"))) > VALUES_MAX:
        raise BodyTooLarge(
            f"the JSON has more than {VALUES_MAX:,} values and lists: send the tensor as binary"
            f" data, or encoded images as the input {IMAGE}"
        )
    try:
        request = InferenceRequest.model_validate_json(text)
    except ValidationError as error:
        raise BadParameter(_first(error)) from None  # its cause would hold the body
    for given, own in (
        (request.model_name, manifest.name),
        (request.model_version, str(manifest.version)),
    ):
        if given not in (None, own):
            raise BadParameter(f"the body is for the model {given!r:.80}, the path for {own}")
    (tensor,) = request.inputs
    return Inference(request.id, images_of(tensor, binary, manifest), _outputs(request, manifest))


def _split(body: bytes, header: str | None) -> tuple[bytes, memoryview]:
    """The JSON, whose length the header gives where binary data follows, and what follows it."""
    if header is None:
        return body, memoryview(b"")
    if not _DIGITS.fullmatch(header) or int(header) > len(body):
        raise BadParameter(
            f"Inference-Header-Content-Length={header!r:.80}: use a whole number, at most the"
            f" {len(body)} bytes of the body"
        )
    return body[: int(header)], memoryview(body)[int(header) :]


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place:.80}: {first['msg']}" if place else f"the request: {first['msg']:.200}"


def _outputs(request: InferenceRequest, manifest: Manifest) -> list[Output]:
    check_known(request.parameters, ["binary_data_output"], "the request")
    binary = _switch(request.parameters, "binary_data_output", default=False)
    valid = names_of_outputs(manifest)
    if not request.outputs:  # maps are large and rarely wanted: only where asked for
        return [Output(name, binary) for name in ("scores", "labels")]
    outputs: list[Output] = []
    for asked in request.outputs:
        if asked.name not in valid:
            raise BadParameter(f"unknown output {asked.name!r:.80}; valid: {', '.join(valid)}")
        if asked.name in (output.name for output in outputs):
            raise BadParameter(f"the output {asked.name} is asked for twice")
        parameters = ["binary_data", "classification"][: 2 if asked.name == "scores" else 1]
        check_known(asked.parameters, parameters, f"the output {asked.name}")
        classes = asked.parameters.get("classification", 0)
        if type(classes) is not int:
            raise BadParameter(f"classification={classes!r:.80}: use a whole number")
        if "classification" in asked.parameters and not 1 <= classes <= len(manifest.labels):
            raise BadParameter(
                f"classification={classes}: use 1 to {len(manifest.labels)}, the number of labels"
            )
        outputs.append(
            Output(asked.name, _switch(asked.parameters, "binary_data", default=binary), classes)
        )
    return outputs


def _switch(parameters: dict[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise BadParameter(f"{name}={value!r:.80}: use true or false")
    return value
