"""BentoML's private modules: they are where expected, and the service works without them."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import serving
from serving import bentoml_internals
from testkit.servers import ROOT

SCRIPT = """
import os
os.environ["BENTOML_CONFIG_OPTIONS"] = "services.labrador.workers=2"
from importlib import import_module
from serving import bentoml_internals, service
telemetry = import_module(bentoml_internals.TELEMETRY)
before = telemetry.do_not_track()
bentoml_internals.stop_telemetry()
service.Labrador.inject_config()
print(before, telemetry.do_not_track(), bentoml_internals.workers("labrador"))
print(*bentoml_internals.address())
"""


WORKERS = """
import os
from serving import bentoml_internals, service
service.gpus = lambda: 1
for cores, device, options in (
    ("8", "cuda", ""),
    ("8", "cuda", "services.labrador.workers=3"),
    ("8", "cpu", ""),
    ("x", "cuda", ""),
):
    os.environ |= {"LABRADOR_CORES": cores, "LABRADOR_DEVICE": device}
    os.environ["BENTOML_CONFIG_OPTIONS"] = options
    service.Labrador.inject_config()
    print(bentoml_internals.workers("labrador"), service.Labrador.config.get("workers"))
"""


def test_a_gpu_gets_workers_by_the_cores_and_a_bento_keeps_none_of_them() -> None:
    """On a CPU, and where the settings can't be read, there is one; BentoML's options win."""
    command = [sys.executable, "-c", WORKERS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "4 None\n3 None\n1 None\n1 None\n"), done.stderr


def test_private_modules_are_used_in_one_module_only() -> None:
    users = set()
    for file in Path(serving.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [str(getattr(node, "module", "")), *(alias.name for alias in node.names)]
                if any("_bentoml" in name or "bentoml._internal" in name for name in names):
                    users.add(file.name)
            if isinstance(node, ast.Constant) and "bentoml._internal" in str(node.value):
                users.add(file.name)
    assert users == {"bentoml_internals.py"}


def test_the_installed_bentoml_has_them_where_expected() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "BENTOML_DO_NOT_TRACK": "False"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "False True 2\n0.0.0.0 3000\n"), done.stderr
    folder = bentoml_internals.swagger_ui()
    assert folder and {"swagger-ui.css", "swagger-ui-bundle.js"} <= set(os.listdir(folder))


def test_the_service_works_without_those_that_bentoml_has_moved(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("CONFIGURATION", "TELEMETRY", "SERVER"):
        monkeypatch.setattr(bentoml_internals, name, "bentoml_moved.elsewhere")
    assert bentoml_internals.workers("labrador") == 1
    assert "assuming one worker" in caplog.text
    assert bentoml_internals.address() is None
    bentoml_internals.stop_telemetry()
    assert "set BENTOML_DO_NOT_TRACK=True" in caplog.text
    assert os.environ["BENTOML_DO_NOT_TRACK"] == "True"
    assert bentoml_internals.swagger_ui() is None
