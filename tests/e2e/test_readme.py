"""The README's commands, run as they are written."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from testkit.servers import free_port
from tests.e2e.conftest import ROOT


def commands(heading: str) -> str:
    """The shell block under a heading of the README."""
    section = (ROOT / "README.md").read_text().partition(f"\n## {heading}\n")[2]
    block = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert block, f"the README has no commands under {heading!r}"
    return block[1]


def run(script: str, clone: Path) -> "subprocess.CompletedProcess[str]":
    own = {"BENTOML_HOME": str(clone / "bentoml"), "LABRADOR_DRAIN_S": "0", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["bash", "-euc", script],
        cwd=clone,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        timeout=550,
    )


@pytest.mark.long
def test_the_commands_of_the_readme_train_export_and_answer(clone: Path) -> None:
    port = free_port()
    script = commands("Train, export, serve").replace("3000", str(port))
    script = script.replace("bentoml serve", f"bentoml serve --port {port}")
    done = run(f"trap 'kill $(jobs -p)' EXIT\n{script}", clone)
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["model"] == {"name": "shapes", "version": "1"}
    assert len(answer["predictions"]) == 2
    assert list(clone.glob("bentoml/bentos/labrador/*/bento.yaml"))


@pytest.mark.long
@pytest.mark.data
def test_the_commands_for_your_own_photos_train_and_answer(
    clone: Path, real_images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On photographs of four breeds; with weights from a file, small and short."""
    monkeypatch.setenv("LABRADOR_MODEL_STORE", str(clone / "bundles"))
    port = free_port()
    for number, breed in enumerate(("Birman", "pug", "beagle", "Abyssinian")):
        folder = clone / "photos" / ("cat" if number == 0 else breed)
        folder.mkdir(parents=True)
        for row, image in enumerate(
            sorted((real_images / "pets" / "images").glob(f"{breed}_*.jpg")), 1
        ):
            shutil.copy(image, folder / f"IMG_{row}.jpg")
    script = commands("Your own photos").replace("3000", str(port))
    weights = real_images / "weights" / "resnet18-distilled.pth"
    small = f"--weights {weights} --image-size 64 --epochs 1"
    script = script.replace("labrador train photos", f"labrador train photos {small}")
    script = script.replace("labrador serve", f"labrador serve --port {port}")
    done = run(f"trap 'kill $(jobs -p)' EXIT\n{script}", clone)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "40 images, 4 labels, single-label" in done.stdout
    assert "curl: " not in done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["model"] == {"name": "mine", "version": "1"}
    assert len(answer["predictions"]) == 4


@pytest.mark.parametrize(
    ("command", "arguments", "expected"),
    [
        ("scripts/demo", "--help", "usage: scripts/demo"),
        pytest.param(
            *("scripts/test", "-n 0 tests/models/test_errors.py", " passed"), marks=pytest.mark.long
        ),
    ],
)
def test_the_two_commands_of_the_readme_start(
    command: str, arguments: str, expected: str, clone: Path
) -> None:
    """test_demo runs the first to its end, and the second runs this test."""
    (line,) = (line for line in commands("Two commands").splitlines() if line.startswith(command))
    done = run(f"{line.partition('#')[0]} {arguments}", clone)
    assert done.returncode == 0, done.stdout + done.stderr
    assert expected in done.stdout
