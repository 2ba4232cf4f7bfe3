"""What a pipeline calls for each release, run twice: the second candidate is worse."""

import os
import subprocess
from pathlib import Path

import pytest

from models import bundle
from models.store import Store
from scripts import drawings

SHORT = [
    *("--weights", "none", "--image-size", "32", "--freeze-epochs", "0", "--lr", "2e-3:2e-3"),
    *("--device", "cpu"),
]


def called(clone: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """From the folder of the images, not that of the checkout."""
    folder = clone / "images"
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        ["../scripts/release", *arguments],
        cwd=folder,
        env={**os.environ, "BENTOML_HOME": str(clone / "bentoml"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.mark.long
def test_a_pipeline_releases_a_first_model_and_refuses_a_worse_one(clone: Path) -> None:
    drawings.single_label(clone / "images" / "drawn", images_per_shape=40, seed=1)
    store = Store(clone / "models" / "bundles")

    first = called(clone, "drawn", "shapes", *SHORT, "--epochs", "3", "--", "--precision", "fp16")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "version 1 of shapes is released" in first.stdout
    assert "Successfully built Bento" in first.stdout
    found = bundle.read(store.path("shapes"))
    assert [variant.precision for variant in found.manifest.variants] == ["fp32", "fp16"]
    assert b"Wrong on " in found.files["report.html"]
    assert b"model-index" in found.files["MODEL_CARD.md"]

    worse = [*SHORT, "--epochs", "1", "--lr", "1e-6"]
    second = called(clone, "drawn", "shapes", *worse, "--", "--margin", "0.02")
    assert second.returncode == 1
    (line,) = (line for line in second.stderr.splitlines() if line.startswith("error: "))
    assert line.startswith("error: refused: the candidate is worse: +")
    assert line.endswith("; shapes:1 stays released (--force releases it anyway)")
    assert "Successfully built" not in second.stdout
    assert store.versions("shapes") == [1]


def test_without_data_and_name_it_prints_its_usage(clone: Path) -> None:
    done = called(clone, "drawn")
    assert done.returncode == 2
    assert "scripts/release DATA NAME [more DATA] [options of train] [-- options" in done.stderr
