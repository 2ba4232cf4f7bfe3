import subprocess
import sys
from pathlib import Path

import models

SCRIPT = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(f"models.{name}")
heavy = ["torch", "torchvision", "bentoml", "onnx", "onnxruntime", "training", "serving"]
print(sorted(name for name in heavy if name in sys.modules))
"""


def test_the_contract_loads_without_torch_bentoml_and_onnxruntime() -> None:
    package = Path(models.__file__).parent
    names = sorted(path.stem for path in package.glob("*.py") if path.stem != "__init__")
    assert len(names) >= 7
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *names],
        capture_output=True,
        text=True,
        cwd=package.parent,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
