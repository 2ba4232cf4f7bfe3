"""Whether JSON is as a schema describes it."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SLOW = "rfc3987_syntax"
"""A library of the tests from which jsonschema makes a parser of IRIs for 2.4 s, in each process
that imports it. `tests/conftest.py` keeps it from the tests' own.
"""


def problem(value: Any, schema: Mapping[str, Any]) -> str | None:
    """What is wrong with it; None for nothing."""
    import jsonschema  # late: few tests need it

    try:
        jsonschema.validate(value, schema)
    except jsonschema.ValidationError as error:
        return str(error.message)
    return None


@contextmanager
def without_iris() -> Iterator[None]:
    """No parser of IRIs is made in processes that are started meanwhile."""
    before = os.environ.get("PYTHONPATH")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, f"{SLOW}.py").write_text("raise ImportError\n")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, before]))
        try:
            yield
        finally:
            if before is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = before
