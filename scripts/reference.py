"""The reference of recipe options, settings, metrics and errors, generated from the code.

python -m scripts.reference    # writes docs/reference.md
"""

import ast
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from models import errors
from models.errors import LabradorError
from serving.settings import PARTS_MAX, PREFIX, Settings
from training.recipe import Recipe

ROOT = Path(__file__).parents[1]
FILE = ROOT / "docs" / "reference.md"
_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
_EXIT_CODE = re.compile(r"\b([012]) ([^;.]+)[;.]")
_CAUSES = {
    "bad_parameter": "a parameter or the body is malformed, or `model` is missing but required",
    "image_missing": "the body has no image, or an image is empty",
    "unauthorized": "the service requires an API key, and the request has no valid one",
    "model_unknown": "no such model is served, or none for this task",
    "not_found": "no such path",
    "method_not_allowed": "the path does not support this method; see the header `Allow`",
    "read_timeout": "the body arrived too slowly: `LABRADOR_READ_TIMEOUT_S`",
    "body_too_large": "the body is larger than `LABRADOR_MAX_BODY_MB`",
    "too_many_images": f"the body has more than {PARTS_MAX} parts",
    "format_unsupported": "the image is neither JPEG, PNG nor WebP; convert HEIC and AVIF to JPEG"
    " first",
    "image_too_large": "the image is larger than `LABRADOR_MAX_MEGAPIXELS`",
    "image_undecodable": "the image is corrupt or incomplete, or not an image",
    "overloaded": "the queue is full, or request bodies take all of their memory; the header"
    " `Retry-After` says when to retry",
    "model_failed": "the model's output is not usable, as NaN; another image may fare better",
    "internal": "an error in the service; see its log",
    "not_ready": "no model is ready, or none is any longer; `detail` says why",
    "deadline_exceeded": "`LABRADOR_TIMEOUT_S`, or the request's `X-Timeout-Ms`, has passed",
}

_METRICS = {  # what creates one
    "counter": "counter",
    "gauge": "gauge",
    "histogram": "histogram",
    "GaugeMetricFamily": "gauge",
    "HistogramMetricFamily": "histogram",
}

Row = Sequence[str]


def text() -> str:
    """The whole page, in Markdown."""
    return f"""# Reference

Generated from the code by `python -m scripts.reference`; do not edit by hand.

## Recipe

What `python -m training train` takes: as an option (`--image-size 128`), or in a TOML file
(`image_size = 128`) given with `--recipe FILE.toml`. Options override the file. Paths are relative
to the current folder. `inspect`, `lr-find` and `evaluate` take the options they need; `--help`
lists them.

{_table(("option", "value", "default", "meaning"), recipe_rows())}

## Settings of the service

Environment variables, read once when the service starts; unknown ones with this prefix are
refused.

{_table(("variable", "value", "default", "meaning"), setting_rows())}

## Metrics of the service

At `/metrics`, summed over the workers. Those of GPUs are in [`integrations.md`](integrations.md).

{_table(("metric", "type", "labels", "meaning"), metric_rows())}

## Exit codes

Of `python -m training`, `python -m models` and `python -m serving`.

{_table(("code", "meaning"), exit_rows())}

## Errors of the service

Every error is an `application/problem+json` object with `type`, `title`, `status`, `detail` and
`code`; below `/v2`, as the Open Inference Protocol has it, `{{"error": "CODE: DETAIL"}}`. In a
request with several images, the error of an image takes the place of its result, as
`{{"error": …}}`, and the request succeeds.

{_table(("code", "HTTP status", "cause"), error_rows())}
"""


def recipe_rows() -> list[Row]:
    return [
        (f"`{name}`", _kind(field), _default(field), field.description or "")
        for name, field in _fields(Recipe)
    ]


def setting_rows() -> list[Row]:
    return [
        (f"`{PREFIX}{name.upper()}`", _kind(field), _default(field), field.description or "")
        for name, field in _fields(Settings)
    ]


def metric_rows() -> list[Row]:
    """From the calls in the code that create them; sorted by name."""
    module = ast.parse((ROOT / "serving/observability/metrics.py").read_text(encoding="utf-8"))
    calls = (node for node in ast.walk(module) if isinstance(node, ast.Call))
    named = ((call, call.func.id) for call in calls if isinstance(call.func, ast.Name))
    rows = [_metric(call, _METRICS[name]) for call, name in named if name in _METRICS]
    return sorted(rows, key=lambda row: row[0])


def _metric(call: ast.Call, kind: str) -> Row:
    name, meaning, *others = call.args
    labels = [*others, *(word.value for word in call.keywords if word.arg == "labels")]
    names = ast.literal_eval(labels[0]) if labels else []
    return (
        f"`{ast.literal_eval(name)}`",
        kind,
        ", ".join(f"`{label}`" for label in names),
        ast.literal_eval(meaning),
    )


def exit_rows() -> list[Row]:
    """From the docstrings of the command lines, which must agree."""
    of_training, *others = (_exit_codes(package) for package in ("training", "models", "serving"))
    for other in others:
        if other != of_training:
            raise ValueError(f"two command lines differ: {of_training} and {other}")
    return [*of_training, ("130", "interrupted by Ctrl-C")]


def _exit_codes(side: str) -> list[Row]:
    module = ast.parse((ROOT / side / "__main__.py").read_text(encoding="utf-8"))
    return _EXIT_CODE.findall(ast.get_docstring(module) or "")


def error_rows() -> list[Row]:
    """Sorted by status. Errors that only a command raises share the code of `LabradorError`.

    Raises KeyError for a code that has no cause above.
    """
    found = {
        (kind.status, kind.code)
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, LabradorError)
    }
    return [(f"`{code}`", str(int(status)), _CAUSES[code]) for status, code in sorted(found)]


def _fields(model: type[BaseModel]) -> Iterable[tuple[str, FieldInfo]]:
    return model.model_fields.items()


def _kind(field: FieldInfo) -> str:
    """The choices, or a type with its bounds."""
    bounds = [
        f"{sign} {getattr(limit, name):g}"
        for limit in field.metadata
        for name, sign in _BOUNDS.items()
        if hasattr(limit, name)
    ]
    return ", ".join([_type(field.annotation), *bounds])


def _type(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    if get_origin(annotation) is tuple:
        return "comma-separated list"
    if types := [part for part in get_args(annotation) if part is not NoneType]:
        return _type(types[0])
    return {bool: "true or false", int: "integer", float: "number", str: "text", Path: "path"}[
        annotation
    ]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is None or field.default == ():
        return "none"
    if isinstance(field.default, Path):
        return f"`{field.default.relative_to(ROOT).as_posix()}`"
    return f"`{field.default}`"


def _table(head: Row, rows: Iterable[Row]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


if __name__ == "__main__":
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(text(), encoding="utf-8")
    print(f"wrote {FILE.relative_to(ROOT)}")
