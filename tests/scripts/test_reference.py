"""`docs/reference.md` agrees with the code."""

import subprocess
import sys

import pytest
from pydantic import Field

from models import errors
from models.errors import LabradorError
from models.manifest import Frozen
from scripts import reference
from testkit.servers import ROOT


def test_the_reference_is_up_to_date() -> None:
    written = reference.FILE.read_text(encoding="utf-8")
    assert written == reference.text(), "run python -m scripts.reference"


def test_a_row_shows_type_bounds_default_and_description(monkeypatch: pytest.MonkeyPatch) -> None:
    class Changed(Frozen):
        share: float = Field(0.25, gt=0, le=0.5, description="a | b")

    monkeypatch.setattr(reference, "Recipe", Changed)
    assert "| `share` | number, > 0, ≤ 0.5 | `0.25` | a \\| b |\n" in reference.text()


def test_an_error_without_a_cause_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    new = type("New", (LabradorError,), {"code": "new"})
    monkeypatch.setattr(errors, "New", new, raising=False)
    with pytest.raises(KeyError, match="new"):
        reference.error_rows()


def test_it_names_nothing_of_this_machine_and_imports_no_torch() -> None:
    assert str(ROOT) not in reference.text()
    script = "import sys, scripts.reference; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
