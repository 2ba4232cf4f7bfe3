import shutil
from pathlib import Path

import pytest
import torch

from training import run_folder
from training.run_folder import Run


def copied(run: Run, folder: Path) -> Run:
    """A copy of the run whose network is another: its head's weights are negated."""
    shutil.copytree(run.path, folder)
    copy = run_folder.read(folder)
    network = copy.network()
    with torch.no_grad():
        network.resnet.fc.weight.neg_()
    run_folder.write_weights(folder, network.weights())
    return copy


@pytest.fixture
def spoilt(run: Run, tmp_path: Path) -> Run:
    return copied(run, tmp_path / "spoilt")


@pytest.fixture
def spoilt_single(single_run: Run, tmp_path: Path) -> Run:
    return copied(single_run, tmp_path / "spoilt")
