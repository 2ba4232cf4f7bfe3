"""The OpenAPI document at /openapi.json, and the page at /docs that shows it."""

from collections.abc import Iterable
from itertools import groupby
from typing import Any, get_args

from pydantic import TypeAdapter

from models.decision import Prediction, Tag
from models.errors import (
    BadParameter,
    BodyTooLarge,
    DeadlineExceeded,
    FormatUnsupported,
    ImageMissing,
    ImageTooLarge,
    ImageUndecodable,
    LabradorError,
    ModelFailed,
    ModelUnknown,
    NotReady,
    Overloaded,
    ReadTimeout,
    TooManyImages,
    Unauthorized,
)
from models.manifest import Metric, Precision
from serving.prediction import TOP_K
from serving.problems import MEDIA_TYPE
from serving.settings import PARTS_MAX, Settings

# Swagger UI comes from BentoML's wheel: the page works offline.
PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<title>Labrador API</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<div id="page"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({url: "openapi.json", dom_id: "#page"})</script>
</html>
"""

_PREDICTION_ERRORS: tuple[type[LabradorError], ...] = (
    BadParameter,
    ImageMissing,
    Unauthorized,
    ModelUnknown,
    ReadTimeout,
    BodyTooLarge,
    TooManyImages,
    FormatUnsupported,
    ImageUndecodable,
    ImageTooLarge,
    Overloaded,
    LabradorError,
    ModelFailed,
    NotReady,
    DeadlineExceeded,
)


def specification(settings: Settings) -> dict[str, Any]:
    """The OpenAPI 3.1 document, with the limits of these settings."""
    keyed: dict[str, Any] = {"security": [{"key": []}]} if settings.api_keys_file else {}
    top_k = {"name": "top_k", "schema": {"type": "integer", "minimum": 1, "default": TOP_K}}
    threshold = {"name": "threshold", "schema": {"type": "number", "minimum": 0, "maximum": 1}}
    coverage = {"name": "coverage", "schema": _BETWEEN}
    models: dict[str, Any] = {"summary": "The served models: their form, why it, and its metrics"}
    listed = _object(models=_array(_MODEL), limits=_LIMITS)
    models["responses"] = _responses(listed, [Unauthorized, NotReady])
    ready = _object(status={"const": "ready"}, models=_array(_object(**_NAMING, **_FORM)))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Labrador",
            "version": "1",
            "description": f"Images: JPEG, PNG or WebP, at most {settings.max_megapixels:g}"
            f" megapixels each, {settings.max_body_mb:g} MiB and {PARTS_MAX} parts per body.",
        },
        "paths": {
            "/classify": {
                "post": keyed | _prediction([top_k, coverage], "predictions", Prediction)
            },
            "/tag": {"post": keyed | _prediction([threshold], "tags", Tag)},
            "/models": {"get": keyed | models},
            "/livez": {"get": {"responses": _responses({}, [NotReady])}},
            "/readyz": {"get": {"responses": _responses(ready, [NotReady])}},
        },
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _array(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


_TEXT = {"type": "string"}
_NUMBER = {"type": "number"}
_BETWEEN = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
_NAMING = {"name": _TEXT, "version": _TEXT}
_PRECISION = {"enum": list(get_args(Precision))}
_FORM: dict[str, Any] = {
    "provider": _TEXT,
    "precision": _PRECISION,
    "why": _TEXT | {"description": "why this precision is served"},
    "metrics_of": _PRECISION | {"description": "the precision whose metrics these are"},
    "metrics": {"type": "object", "additionalProperties": Metric.model_json_schema()},
}
_COUNT = {"type": "integer", "minimum": 0}
_SPEED = _object(
    provider=_TEXT,
    precision=_PRECISION,
    batch=_COUNT | {"description": "images per run"},
    images_per_second={"type": "number"},
)
_LIMITS = _object(body_mb=_NUMBER, megapixels=_NUMBER, images=_COUNT)
_MODEL = _object(
    **_NAMING,
    task={"enum": ["single", "multi"]},
    labels=_array(_TEXT),
    thresholds={"type": ["array", "null"], "items": _NUMBER},
    maps={"type": "boolean", "description": "whether `maps=true` may be asked"},
    novelty={"type": "boolean", "description": "whether answers have `novelty`"},
    held_out={
        "description": "what `alpha` and `coverage` are promised by; null: by nothing",
        "oneOf": [_object(images=_COUNT, alpha=_BETWEEN), {"type": "null"}],
    },
    samples=_COUNT | {"description": "pictures at /models/{name}/samples/1 and so on"},
    sha256=_TEXT,
    **_FORM,
    timed=_array(_SPEED)
    | {"description": "what LABRADOR_PRECISION=auto measured when the model was loaded"},
    gate=_object(
        max_difference={"type": "number", "description": "of a score, from the trained network's"},
        flips=_COUNT | {"description": "decisions that differ from the trained network's"},
        decisions={"type": ["integer", "null"], "description": "decisions compared, if known"},
        images=_COUNT | {"description": "validation images compared"},
    ),
)


_MAP = _array(_array(_NUMBER)) | {
    "description": "with maps=true: where in the upright image the evidence for the label lies, as"
    " rows from top to bottom. Above 0 it is stronger than on average, below 0 weaker, in nats of"
    " the label's logit, or of its difference from that of the label `against`. To draw it, stretch"
    " it over `box`."
}
_AGAINST = _TEXT | {"description": "with maps=true: the likeliest of the other labels"}
_BOX = _array(_NUMBER) | {
    "minItems": 4,
    "maxItems": 4,
    "description": "with maps=true: left, top, right and bottom of the part of the upright image"
    " that the network saw, as fractions of its width and height",
}
_NOVELTY = _object(
    p_value=_NUMBER
    | {
        "description": "share of images like the validation images that are at least as strange as"
        " this one"
    },
    unknown={"type": "boolean", "description": "whether p_value is at most alpha"},
) | {"description": "if the model measures it: whether the image is like those it was made for"}
_SET = _array(_TEXT) | {
    "description": "with coverage: labels, the likeliest first, that contain the right one with at"
    " least this probability"
}


def _prediction(own: list[dict[str, Any]], key: str, decision: type) -> dict[str, Any]:
    """An operation that takes images and returns, as `key`, an array of `decision`.

    own: its parameters beside those of all.
    """
    file = {"type": "string", "contentMediaType": "application/octet-stream"}
    model = {"name": "model", "schema": _TEXT}
    maps = {"name": "maps", "schema": {"type": "boolean", "default": False}}
    timeout = {"name": "X-Timeout-Ms", "schema": {"type": "integer", "minimum": 1}}
    alpha = {
        "name": "alpha",
        "schema": _BETWEEN,
        "description": "largest share of images like the validation images that is called unknown;"
        " default: the model's own",
    }
    parameters = [model, *own, alpha, maps]
    fields = {field["name"]: field["schema"] for field in parameters}
    form = {"type": "object", "properties": {"image": _array(file)} | fields, "required": ["image"]}
    raw = ("image/jpeg", "image/png", "image/webp", "application/octet-stream")
    schema = TypeAdapter(decision).json_schema()
    schema["properties"] |= {"map": _MAP} | ({"against": _AGAINST} if key == "predictions" else {})
    one_of_several = {"oneOf": [_object(**{key: _array(schema)}), _object(error=_problem())]}
    naming = _object(**_NAMING)
    answers = [_object(model=naming, **{key: _array(schema)})]
    for result in (answers[0], one_of_several["oneOf"][0]):
        result["properties"] |= {"novelty": _NOVELTY, "box": _BOX}
        result["properties"] |= {"set": _SET} if key == "predictions" else {}
    answers.append(_object(model=naming, results=_array(one_of_several)))
    return {
        "summary": f"The {key} of one image, or of several: the answer then has results, one each",
        "parameters": [
            *(parameter | {"in": "query"} for parameter in parameters),
            timeout | {"in": "header"},
        ],
        "requestBody": {
            "required": True,
            "content": {"multipart/form-data": {"schema": form}} | {kind: {} for kind in raw},
        },
        "responses": _responses({"oneOf": answers}, _PREDICTION_ERRORS),
    }


def _responses(answer: dict[str, Any], errors: Iterable[type[LabradorError]]) -> dict[str, Any]:
    """200 with `answer`, and a problem for each status of the errors."""
    responses: dict[str, Any] = {
        "200": {"description": "OK", "content": {"application/json": {"schema": answer}}}
    }
    for status, group in groupby(sorted(errors, key=lambda e: e.status), lambda e: e.status):
        codes = [error.code for error in group]
        responses[str(status.value)] = {
            "description": " or ".join(codes),
            "content": {MEDIA_TYPE: {"schema": _problem(codes)}},
        }
    return responses


def _problem(codes: list[str] | None = None) -> dict[str, Any]:
    code = _TEXT if codes is None else {"enum": codes}
    return _object(type=_TEXT, title=_TEXT, status={"type": "integer"}, detail=_TEXT, code=code)
