"""Layers import in one direction, as documented in `docs/architecture.md`."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from testkit.servers import ROOT

TRAINING = ROOT / "training"


def layers() -> dict[str, set[str]]:
    """What each layer may import, in the document's order, from top to bottom."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = text.partition("## The layers of `training/`")[2].partition("\n## ")[0]
    table: dict[str, set[str]] = {}
    for line in section.splitlines():
        if line.startswith("| `"):
            layer, _, imports = (cell.strip() for cell in line.strip("|").split("|"))
            table[layer.strip("`/")] = set(re.findall(r"`(\w+)`", imports))
    table["commands"] = set(list(table)[list(table).index("commands") + 1 :])
    return table


def imported(file: Path, anywhere: bool = True) -> Iterator[str]:
    """Every module that a file imports: `training.data`, `training.data.split`.

    anywhere: also inside functions, where it is imported late or never.
    """
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if anywhere else tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def layer_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "training" and len(parts) > 1 else None


def test_the_document_lists_exactly_the_layers_that_exist() -> None:
    found = {path.stem for path in TRAINING.iterdir() if path.name != "__pycache__"}
    assert set(layers()) == found - {"__init__"}


def test_a_layer_imports_only_what_the_document_allows() -> None:
    allowed, wrong = layers(), []
    for file in sorted(TRAINING.rglob("*.py")):
        layer = file.relative_to(TRAINING).parts[0].removesuffix(".py")
        for module in imported(file):
            other = layer_of(module)
            if other in allowed and other not in {layer, *allowed.get(layer, ())}:
                wrong.append(f"{file.relative_to(ROOT)} imports {module}")
    assert not wrong


def test_no_layer_in_the_document_imports_one_above_it() -> None:
    table = layers()
    order = list(table)
    assert [
        (layer, other)
        for layer, others in table.items()
        for other in others
        if order.index(other) <= order.index(layer)
    ] == []


def test_the_sides_never_import_each_other() -> None:
    forbidden = {
        "models": {"training", "serving", "torch", "bentoml", "onnxruntime"},
        "training": {"serving", "bentoml"},
        "serving": {"training", "torch", "torchvision"},
    }
    for side, others in forbidden.items():
        for file in sorted((ROOT / side).rglob("*.py")):
            packages = {module.split(".")[0] for module in imported(file)}
            assert not packages & others, file


def test_train_begins_without_what_only_its_results_need() -> None:
    """To import these takes seconds, which come before the first step."""
    loaded: set[str] = set()
    waiting = ["training.commands.train"]
    while waiting:
        module = waiting.pop()
        if module not in loaded:
            loaded.add(module)
            path = ROOT / module.replace(".", "/")
            file = path.with_suffix(".py") if not path.is_dir() else path / "__init__.py"
            if file.is_file():
                waiting += imported(file, anywhere=False)
    assert "torch" in loaded
    late = {"matplotlib", "jinja2", "scipy.stats", "tensorboard", "mlflow", "pyarrow"}
    assert not {module for module in loaded if any(f"{module}.".startswith(f"{n}.") for n in late)}


def test_each_file_that_the_document_names_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for name in re.findall(r"`([\w/]+\.py)`", text):
        assert (ROOT / name).is_file() or (TRAINING / name).is_file(), name
