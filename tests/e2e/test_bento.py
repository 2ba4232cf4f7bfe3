"""What `bentoml build` makes serves from an environment with its own requirements only."""

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx

from tests import tiny
from tests.serving.running import free_port


def test_a_bento_serves_from_a_fresh_environment_without_torch(clone: Path) -> None:
    tiny.add(clone / "models" / "bundles", "colours", "single")
    home = {**os.environ, "BENTOML_HOME": str(clone / "bentoml")}
    home.pop("PYTHONPATH", None)
    _run([sys.executable, "-m", "bentoml", "build"], clone, home)
    (bento,) = (file.parent for file in clone.glob("bentoml/bentos/labrador/*/bento.yaml"))
    assert not list(bento.glob("src/training")) and not list(bento.glob("src/tests"))

    uv = str(Path(sys.executable).parent / "uv")
    fresh = clone / "fresh"
    requirements = bento / "env" / "python" / "requirements.txt"
    _run([uv, "venv", "--quiet", "--python", sys.executable, str(fresh)], clone, home)
    python = str(fresh / "bin" / "python")
    install = [uv, "pip", "install", "--quiet", "--python", python]  # as in BentoML's container
    _run([*install, "--requirements", str(requirements)], clone, home)
    absent = "import importlib.util as u, sys; sys.exit(u.find_spec('torch') is not None)"
    _run([python, "-c", absent], clone, home)

    port = free_port()
    command = [python, "-m", "bentoml", "serve", str(bento), "--port", str(port)]
    home["LABRADOR_DRAIN_S"] = "0"
    with subprocess.Popen(command, cwd=clone.parent, env=home) as server:
        try:
            _wait_until_ready(f"http://127.0.0.1:{port}/readyz", server)
            answer = httpx.post(f"http://127.0.0.1:{port}/classify", content=tiny.picture())
        finally:
            server.terminate()
    assert answer.status_code == 200
    assert answer.json()["predictions"][0]["label"] == "red"


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
    raise AssertionError("the server of the Bento did not get ready")
