"""The README's commands, run as they stand there."""

import json
import os
import re
import subprocess
from pathlib import Path

from tests.e2e.conftest import ROOT
from tests.serving.running import free_port


def _commands(heading: str) -> str:
    """The shell block below a heading of the README."""
    section = (ROOT / "README.md").read_text().partition(f"\n## {heading}\n")[2]
    block = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert block, f"the README has no commands below {heading!r}"
    return block[1]


def test_the_commands_of_the_readme_train_export_and_answer(clone: Path) -> None:
    port = free_port()
    commands = _commands("Train, export, serve").replace("3000", str(port))
    commands = commands.replace("bentoml serve", f"bentoml serve --port {port}")
    done = subprocess.run(
        ["bash", "-euc", f"trap 'kill $(jobs -p)' EXIT\n{commands}"],
        cwd=clone,
        env={**os.environ, "BENTOML_HOME": str(clone / "bentoml"), "LABRADOR_DRAIN_S": "0"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["model"] == {"name": "shapes", "version": "1"}
    assert len(answer["predictions"]) == 2
    assert list(clone.glob("bentoml/bentos/labrador/*/bento.yaml"))


def test_the_two_commands_of_the_readme_exist_and_run() -> None:
    for line in _commands("Two commands").splitlines():
        command = line.split()[0]
        assert (ROOT / command).is_file() and os.access(ROOT / command, os.X_OK), command
