"""A request's parameters: from the query, from form fields, and from one header."""

from collections.abc import Iterable, Sequence

from models.errors import BadParameter


def gather(
    query: Iterable[tuple[str, str]], fields: Iterable[tuple[str, str]], valid: Sequence[str]
) -> dict[str, str]:
    """Name -> text. Raises BadParameter for a name that is not in `valid` or is given twice."""
    parameters: dict[str, str] = {}
    for name, text in [*query, *_unquoted(fields)]:
        if name not in valid:
            raise BadParameter(f"unknown parameter {name!r:.80}; valid: {', '.join(valid)}")
        if name in parameters:
            raise BadParameter(f"{name} is given twice")
        parameters[name] = text
    return parameters


def _unquoted(fields: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    """Undo the JSON in which BentoML's client writes form fields: "pets", and null for None."""
    for name, text in fields:
        if text == "null":
            continue
        quoted = len(text) > 1 and text[0] == text[-1] == '"'
        yield name, text[1:-1] if quoted else text


def whole_number(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise BadParameter(f"{name}={text!r:.80}: use a whole number") from error


def number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise BadParameter(f"{name}={text!r:.80}: use a number") from error


def switch(name: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise BadParameter(f"{name}={text!r:.80}: use true or false")
    return text == "true"


def timeout_s(header: str | None, limit_s: float) -> float:
    """The seconds that a request may take: its X-Timeout-Ms, at most `limit_s`."""
    if header is None:
        return limit_s
    timeout_ms = whole_number("X-Timeout-Ms", header)
    if timeout_ms < 1:
        raise BadParameter(f"X-Timeout-Ms={timeout_ms}: use 1 or more")
    return min(timeout_ms, limit_s * 1000) / 1000
