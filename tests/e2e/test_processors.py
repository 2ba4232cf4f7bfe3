"""Golden scores computed on one processor, checked by a service on another."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from models import bundle
from models.store import Store
from scripts import drawings
from serving.forms import open_proved
from serving.session import Place
from serving.settings import Settings
from tests.e2e.conftest import ROOT

OLDER = {
    "this processor": {},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "none": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
}


def training(words: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "training", *words],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    drawings.single_label(folder / "shapes", images_per_shape=60, seed=1)
    options = "--weights none --image-size 64 --freeze-epochs 0 --epochs 3 --lr 2e-3:2e-3"
    training(["train", str(folder / "shapes"), *options.split(), "--out", str(folder / "run")], {})
    return folder / "run"


@pytest.mark.long
@pytest.mark.parametrize("vector_units", OLDER)
def test_an_export_from_another_processor_becomes_ready_here(
    vector_units: str, run: Path, tmp_path: Path
) -> None:
    training(
        [
            *("export", str(run), "--name", "shapes"),
            *("--store", str(tmp_path), "--precision", "fp32"),
        ],
        OLDER[vector_units],
    )
    whole = bundle.read(Store(tmp_path).path("shapes"))
    open_proved(whole, Settings(device="cpu", precision="fp32"), Place(threads=1, worker=0))
