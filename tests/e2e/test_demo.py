"""The whole path once, as a newcomer sees it."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from testkit.servers import free_port


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_demo_trains_serves_and_answers_both_tasks(clone: Path) -> None:
    port = free_port()
    done = subprocess.run(
        ["scripts/demo", "--once", "--port", str(port)],
        cwd=clone,
        env={**os.environ, "BENTOML_HOME": str(clone / "bentoml")},
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    classified, tagged, nothing, refused = answers
    assert classified["predictions"][0]["label"] == "circle"
    found = {tag["label"] for tag in tagged["tags"]}  # a single drawing: one tag may be missed
    assert found and found <= {"cross", "star"}
    assert nothing["model"] == {"name": "scenes", "version": "1"}
    assert refused["code"] == "image_undecodable"
