"""Whether JSON is as a schema describes it."""

from collections.abc import Mapping
from typing import Any


def problem(value: Any, schema: Mapping[str, Any]) -> str | None:
    """What is wrong with it; None for nothing."""
    import jsonschema  # late: it compiles a grammar for 2.4 s, in each of pytest's workers

    try:
        jsonschema.validate(value, schema)
    except jsonschema.ValidationError as error:
        return str(error.message)
    return None
