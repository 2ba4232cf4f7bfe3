"""What `scripts/bento` builds from a checkout below a hidden folder, where BentoML itself refuses.

The Bento serves from an environment with only its own requirements.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from testkit import tiny_models
from testkit.servers import free_port
from tests.e2e.conftest import cloned


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with a model, below a hidden folder."""
    folder = cloned(tmp_path_factory.mktemp("bento") / ".hidden" / "checkout")
    tiny_models.add(folder / "models" / "bundles", "colours", "single")
    return folder


@pytest.fixture(scope="module")
def home(checkout: Path) -> dict[str, str]:
    """The environment variables of BentoML's commands."""
    own = {"BENTOML_HOME": "bentoml", "BENTOML_DO_NOT_TRACK": "True", "LABRADOR_DRAIN_S": "0"}
    return {name: v for name, v in os.environ.items() if name != "PYTHONPATH"} | own


@pytest.fixture(scope="module")
def bento(checkout: Path, home: dict[str, str]) -> Path:
    _run(["scripts/bento"], checkout, home)
    (file,) = checkout.glob("bentoml/bentos/labrador/*/bento.yaml")
    return file.parent


def test_a_bento_contains_only_models_and_serving(bento: Path) -> None:
    assert {path.name for path in (bento / "src").iterdir()} == {
        "bentofile.yaml",
        "models",
        "serving",
    }
    assert (bento / "src" / "serving" / "service.py").is_file()
    assert (bento / "src" / "models" / "bundles" / "colours" / "1" / "manifest.json").is_file()
    requirements = (bento / "env" / "python" / "requirements.txt").read_text()
    assert "onnxruntime-gpu==" in requirements
    assert "--hash=sha256:" in requirements
    assert "torch" not in requirements


def test_if_every_folder_is_hidden_the_error_is_one_line(
    checkout: Path, home: dict[str, str]
) -> None:
    scratch = checkout.parent / "scratch"
    scratch.mkdir()
    done = subprocess.run(
        ["scripts/bento"],
        cwd=checkout,
        env={**home, "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        f"error: BentoML does not build below a hidden folder, and {checkout} and"
    )
    assert list(scratch.iterdir()) == []


@pytest.mark.long
def test_a_bento_serves_from_a_fresh_environment_without_torch(
    checkout: Path, home: dict[str, str], bento: Path
) -> None:
    uv = str(Path(sys.executable).parent / "uv")
    fresh = checkout / "fresh"
    requirements = bento / "env" / "python" / "requirements.txt"
    _run([uv, "venv", "--quiet", "--python", sys.executable, str(fresh)], checkout, home)
    python = str(fresh / "bin" / "python")
    install = [uv, "pip", "install", "--quiet", "--python", python]  # as in BentoML's container
    _run([*install, "--requirements", str(requirements)], checkout, home)
    absent = "import importlib.util as u, sys; sys.exit(u.find_spec('torch') is not None)"
    _run([python, "-c", absent], checkout, home)

    port = free_port()
    command = [python, "-m", "bentoml", "serve", str(bento), "--port", str(port)]
    with subprocess.Popen(command, cwd=checkout.parent, env=home) as server:
        try:
            _wait_until_ready(f"http://127.0.0.1:{port}/readyz", server)
            answer = httpx.post(f"http://127.0.0.1:{port}/classify", content=tiny_models.picture())
            page = httpx.get(f"http://127.0.0.1:{port}/page/page.js")
        finally:
            server.terminate()
    assert answer.status_code == 200
    assert answer.json()["predictions"][0]["label"] == "red"
    assert page.status_code == 200


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def _wait_until_ready(url: str, server: subprocess.Popen[bytes]) -> None:
    end_s = time.monotonic() + 60
    while time.monotonic() < end_s and server.poll() is None:
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError("the server of the Bento did not become ready")
