"""The Open Inference Protocol's part of the OpenAPI document.

The schemas of its objects are those of its specification, open_inference_rest.yaml, narrowed to the
inputs that there are.
"""

from typing import Any

from models.errors import LabradorError
from serving.open_inference.request import HEADER, InferenceRequest

_TEXT = {"type": "string"}
_INTEGERS = {"type": "array", "items": {"type": "integer"}}
_ERROR = {"type": "object", "properties": {"error": _TEXT}, "required": ["error"]}
_TENSOR = {
    "type": "object",
    "properties": {"name": _TEXT, "datatype": _TEXT, "shape": _INTEGERS},
    "required": ["name", "datatype", "shape"],
}
_TENSORS = {"type": "array", "items": _TENSOR}
_SERVER = {
    "type": "object",
    "properties": {
        "name": _TEXT,
        "version": _TEXT,
        "extensions": {"type": "array", "items": _TEXT},
    },
    "required": ["name", "version", "extensions"],
}
_MODEL = {
    "type": "object",
    "properties": {
        "name": _TEXT,
        "versions": {"type": "array", "items": _TEXT},
        "platform": _TEXT,
        "inputs": _TENSORS,
        "outputs": _TENSORS,
    },
    "required": ["name", "versions", "platform", "inputs", "outputs"],
}
_OUTPUT = {
    "type": "object",
    "properties": {
        **_TENSOR["properties"],  # type: ignore[dict-item]
        "parameters": {"type": "object"},
        "data": {"type": "array"},
    },
    "required": ["name", "datatype", "shape"],
}
_ANSWER = {
    "type": "object",
    "properties": {
        "model_name": _TEXT,
        "model_version": _TEXT,
        "id": _TEXT,
        "outputs": {"type": "array", "items": _OUTPUT},
    },
    "required": ["model_name", "model_version", "outputs"],
}


def paths(keyed: dict[str, Any], errors: tuple[type[LabradorError], ...]) -> dict[str, Any]:
    """Path -> operations. keyed: what an operation has that needs an API key; errors: of infer."""
    live, ready = (_get({"properties": {n: {"const": True}}}, n) for n in ("live", "ready"))
    result: dict[str, Any] = {
        "/v2": {"get": _get(_SERVER, "The server and the extensions of the protocol that it has")},
        "/v2/health/live": {"get": live},
        "/v2/health/ready": {"get": ready},
    }
    for suffix, names in (("", ["name"]), ("/versions/{version}", ["name", "version"])):
        path = "/v2/models/{name}" + suffix
        parameters = {
            "parameters": [
                {"name": name, "in": "path", "required": True, "schema": _TEXT} for name in names
            ]
        }
        is_ready = {"properties": {"name": _TEXT, "ready": {"const": True}}}
        result[path] = parameters | {
            "get": keyed | _get(_MODEL, "The model's inputs, of which one is sent, and outputs")
        }
        result[f"{path}/ready"] = parameters | {"get": _get(is_ready, "ready")}
        result[f"{path}/infer"] = parameters | {"post": keyed | _infer(errors)}
    return result


def _get(answer: dict[str, Any], summary: str) -> dict[str, Any]:
    return {"summary": summary, "responses": _responses(answer, ())}


def _infer(errors: tuple[type[LabradorError], ...]) -> dict[str, Any]:
    length = {
        "name": HEADER,
        "in": "header",
        "schema": {"type": "integer", "minimum": 0},
        "description": "of the JSON, where binary tensors follow it",
    }
    request = InferenceRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    request.pop("$defs")
    return {
        "summary": "Scores, labels and maps of encoded images, or of the network's own pixels",
        "parameters": [length],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": request}, "application/octet-stream": {}},
        },
        "responses": _responses(_ANSWER, errors),
    }


def schemas() -> dict[str, Any]:
    """What the request refers to, for the document's components."""
    definitions: dict[str, Any] = InferenceRequest.model_json_schema(
        ref_template="#/components/schemas/{model}"
    )["$defs"]
    return definitions


def _responses(answer: dict[str, Any], errors: tuple[type[LabradorError], ...]) -> dict[str, Any]:
    responses = {"200": _response("OK", {"type": "object"} | answer)}
    for status in sorted({error.status for error in errors}):
        codes = [error.code for error in errors if error.status == status]
        responses[str(status.value)] = _response(" or ".join(codes), _ERROR)
    if not errors:
        responses["default"] = _response("the code of an error, and what it says", _ERROR)
    return responses


def _response(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}
