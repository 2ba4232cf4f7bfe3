"""Which epoch is the best one, and when the others are enough: by given figures."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models.manifest import Task
from tests.training import samples
from tests.training.test_fine_tune import ALONE, images_of, network, pictures
from training.checkpoint import FOLDER, Progress
from training.fine_tune import Epoch, FineTuning
from training.stages import Stages
from training.watch import HeldOut, Watch

# the same course in both tasks' figures: better, worse, as good, better again
FIGURES: dict[Task, list[float]] = {
    "single": [0.5, 0.3, 0.4, 0.3, 0.2],
    "multi": [0.5, 0.7, 0.6, 0.7, 0.8],
}
FIGURE: dict[Task, str] = {"single": "error", "multi": "map"}


def watch(path: Path, task: Task = "single", **changes: Any) -> Watch:
    """Over a network of chance and 24 pictures."""
    given = pictures(task)
    recipe = samples.recipe(task=task, **changes)
    tuning = FineTuning(network(), given, task, recipe, ALONE)
    images = images_of(given).permute(0, 2, 3, 1).to(torch.uint8)
    targets = given.targets.numpy()
    truth = targets > 0 if task == "multi" else np.eye(3, dtype=bool)[targets]
    (path / FOLDER).mkdir()
    return Watch(path, tuning, HeldOut(images, truth))


def progress(task: Task, figures: list[float], phase: str = "whole") -> Progress:
    return Progress(epochs=[{"phase": phase, FIGURE[task]: figure} for figure in figures])


@pytest.mark.parametrize(
    ("patience", "ended"),
    [
        (1, [False, False, False, True, True, False]),
        (2, [False, False, False, False, True, False]),
        (3, [False] * 6),
        (None, [False] * 6),
    ],
)
def test_so_many_epochs_without_a_better_figure_are_enough(
    task: Task, tmp_path: Path, patience: int | None, ended: list[bool]
) -> None:
    """An equal one is no better."""
    own = watch(tmp_path, task, early_stop=patience)
    done = [own.enough(progress(task, FIGURES[task][:count])) for count in range(6)]
    assert done == ended


def test_epochs_of_the_head_are_waited_for_only_where_no_others_follow(tmp_path: Path) -> None:
    worse = progress("single", [0.1, 0.5, 0.5], phase="head")
    assert not watch(tmp_path, early_stop=1, epochs=1).enough(worse)
    (tmp_path / "alone").mkdir()
    assert watch(tmp_path / "alone", early_stop=1, epochs=0).enough(worse)


@pytest.mark.parametrize(("earlier", "kept"), [("better", False), ("worse", True)])
def test_the_weights_of_an_epoch_are_kept_if_it_is_the_best_one(
    task: Task, tmp_path: Path, earlier: str, kept: bool
) -> None:
    """This epoch's own figure is between those, which no network can have."""
    best, worst = (-1.0, 2.0) if task == "single" else (2.0, -1.0)
    own = watch(tmp_path, task, early_stop=1)
    before = progress(task, [best if earlier == "better" else worst])
    own.after_epoch(Epoch("whole", 2, 0.5, 10.0, Stages(ALONE.device)), before)
    assert 0 <= before.epochs[-1][FIGURE[task]] <= 1
    file = tmp_path / FOLDER / "best.weights"
    assert file.exists() == kept
    if kept:
        state = network().resnet.state_dict()
        assert all(torch.equal(state[name], value) for name, value in load_file(file).items())


def test_without_an_early_end_no_weights_are_kept(tmp_path: Path) -> None:
    epoch = Epoch("whole", 1, 0.5, 10.0, Stages(ALONE.device))
    watch(tmp_path).after_epoch(epoch, Progress())
    assert list((tmp_path / FOLDER).iterdir()) == []
