import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from scripts import mutation
from scripts.mutants import mutants
from testkit.servers import ROOT

TOY = """def clamp(value: int, low: int) -> int:
    if value < low:
        return low
    return value


def grown_up(age: int) -> bool:
    return age >= 18


def may_buy(age: int) -> bool:
    return age > 17
"""
TESTS = """import subprocess, sys
from toy.bounds import clamp, grown_up, may_buy


def test_nothing_is_below_the_bound() -> None:
    assert [clamp(value, 3) for value in (1, 5)] == [3, 5]


def test_the_old_are_grown_up() -> None:
    assert grown_up(40) and not grown_up(17)


def test_the_just_grown_up_are_allowed_to_buy_in_a_process_of_its_own() -> None:
    buy = "from toy.bounds import may_buy; raise SystemExit(may_buy(17) or not may_buy(18))"
    assert subprocess.run([sys.executable, "-c", buy]).returncode == 0


def test_the_too_young_may_not_buy() -> None:
    assert not may_buy(3)
"""
LISTED = """[["toy/bounds.py"]]
was = "if value < low:"
becomes = "if value <= low:"
reason = "returns the bound either way"

[["toy/bounds.py"]]
was = "if value < low:"
becomes = "if value is low:"
reason = "left over from a change"
"""
PRINTED = """
toy/bounds.py: 7 mutants, 0.0 s of tests
toy/bounds.py:8
- return age >= 18
+ return age > 18
toy/bounds.py:8
- return age >= 18
+ return age >= 19
tests/equivalent_mutants.toml lists a mutant that does not survive:
+ if value is low:
toy/bounds.py: 66.7% noticed: 4 killed, 0 timeouts, 2 survived; 1 equivalent
"""


def test_every_module_that_is_mutated_exists_and_has_tests() -> None:
    assert mutation.TESTS.keys() <= set(mutation.ALL)
    listed = tomllib.loads((ROOT / mutation.EQUIVALENT).read_text())
    assert listed.keys() <= set(mutation.ALL)
    named = [file for module in mutation.ALL for file in (module, *mutation.tests_of(module))]
    assert [file for file in named if not (ROOT / file).is_file()] == []


@pytest.mark.long
def test_the_mutants_that_no_test_notices_are_printed(tmp_path: Path) -> None:
    for name, text in {
        "toy/bounds.py": TOY,
        "tests/toy/test_bounds.py": TESTS,
        "tests/equivalent_mutants.toml": LISTED,
        "pyproject.toml": '[tool.pytest.ini_options]\npythonpath = ["."]\n',
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    done = subprocess.run(
        [sys.executable, "-m", "scripts.mutation", "toy/bounds.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (re.sub(r"[\d.]+ s of", "0.0 s of", done.stdout), done.stderr) == (PRINTED, "")
    assert done.returncode == 1
    assert (tmp_path / "toy" / "bounds.py").read_text() == TOY


@pytest.mark.parametrize(
    ("source", "changed"),
    [
        ("LIMIT = 3\n", {"LIMIT = 4", "LIMIT = None"}),
        ("close(file)\n", {"pass", "close(None)"}),
        ("if ready: go = 1\n", {"if (ready) and False: go = 1", "if (ready) or True: go = 1"}),
        ("raise ValueError('not a number')\n", {"raise ValueError(None)"}),
        ("size: Field = Field(ge=8, description='in pixels')\n", {"ge=9", "ge=None", "= None"}),
    ],
)
def test_code_is_mutated_and_text_for_people_is_not(source: str, changed: set[str]) -> None:
    becomes = [mutant.becomes for mutant in mutants(source)]
    assert all(any(text in line for line in becomes) for text in changed)
    assert not any("XX" in line for line in becomes)


def test_a_mutant_knows_its_function_and_its_line() -> None:
    edge = next(mutant for mutant in mutants(TOY) if "<=" in mutant.becomes)
    assert (edge.line, edge.function) == (2, range(2, 5))
