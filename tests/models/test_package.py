import subprocess
import sys
from pathlib import Path

import models

SCRIPT = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(f"models.{name}")
heavy = ["torch", "torchvision", "bentoml", "onnx", "onnxruntime", "scipy", "training", "serving"]
print(sorted(name for name in heavy if name in sys.modules))
"""


def test_the_contract_loads_without_torch_bentoml_and_onnxruntime() -> None:
    package = Path(models.__file__).parent
    files = [file.relative_to(package) for file in package.rglob("*.py")]
    names = sorted(".".join(f.with_suffix("").parts) for f in files if f.stem != "__init__")
    assert {"store", "__main__", "commands.rollback"} <= set(names)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *names],
        capture_output=True,
        text=True,
        cwd=package.parent,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
