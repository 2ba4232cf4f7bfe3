"""Which package may import which: training and serving share only `models`."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testkit.json_schema import without_iris

ROOT = Path(__file__).parents[1]
NEVER = {  # what no module of a package imports, directly or indirectly
    "models": {"training", "serving", "torch", "torchvision", "bentoml", "onnxruntime"},
    "serving": {"training", "torch", "torchvision"},
    "training": {"serving", "bentoml", "starlette"},
}

# Imports every module of the given packages, and prints all packages that were loaded.
IMPORT_ALL = """
import importlib, pkgutil, sys
for package in sys.argv[1:]:
    path = importlib.import_module(package).__path__
    for module in pkgutil.walk_packages(path, f"{package}."):
        importlib.import_module(module.name)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def _imported(file: Path) -> Iterator[str]:
    """The packages that a module imports, including inside its functions."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            yield str(node.module).partition(".")[0]


@pytest.mark.parametrize("package", NEVER)
def test_no_module_imports_a_forbidden_package(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    assert len(files) > 5
    for file in files:
        forbidden = NEVER[package] & set(_imported(file))
        assert not forbidden, f"{file.relative_to(ROOT)} imports {forbidden}"


def test_serving_and_models_load_without_torch_and_training() -> None:
    script = [sys.executable, "-c", IMPORT_ALL, "models", "serving"]
    with without_iris():  # of Ray, which one of them imports
        done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert {"models", "serving", "onnxruntime", "bentoml"} <= loaded
    assert not loaded & NEVER["serving"]
