"""The newest versions that pyproject.toml allows, in place of the locked ones: the tests pass."""

import os
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest

from models.hardware import cpu_cores
from testkit.servers import ROOT

PARTS = ["tests/models", "tests/training", "tests/serving", "tests/examples"]


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_tests_pass_with_the_newest_versions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [
        *project["project"]["dependencies"],
        *chain.from_iterable(project["project"]["optional-dependencies"].values()),
        *project["dependency-groups"]["dev"],
    ]
    environment = tmp_path / "newest"
    uv = [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, environment], check=True)
    python = environment / "bin" / "python"
    install: list[str | Path] = [
        *uv,
        "pip",
        "install",
        "--quiet",
        "--system-certs",
        "--python",
        python,
    ]
    subprocess.run([*install, "--upgrade", "--compile-bytecode", *wanted], check=True)
    with capsys.disabled():
        print("\nnewer than locked:", ", ".join(_newer(python)) or "nothing")
        workers = str(cpu_cores() + 1)
        command = [str(python), "-m", "pytest", "-q", "-n", workers, "-p", "no:cacheprovider"]
        done = subprocess.run([*command, *PARTS], cwd=ROOT, env={**os.environ, "PYTHONPATH": ""})
    assert done.returncode == 0


def _newer(python: Path) -> list[str]:
    """NAME LOCKED -> NEWEST, of what differs."""
    locked, newest = _versions(Path(sys.executable)), _versions(python)
    return [
        f"{name} {locked.get(name, '-')} -> {version}"
        for name, version in newest.items()
        if locked.get(name) != version
    ]


def _versions(python: Path) -> dict[str, str]:
    listing = [sys.executable, "-m", "uv", "pip", "freeze", "--python", str(python)]
    lines = subprocess.run(listing, check=True, capture_output=True, text=True).stdout.splitlines()
    return dict(line.split("==") for line in lines if "==" in line)
