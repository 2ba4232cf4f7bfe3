"""What is reported of an epoch, which epoch is the best, and early stopping."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score

from models.manifest import Task
from testkit.noise_images import ALONE, network, validation_of
from training.distributed import Ranks
from training.fine_tuning.checkpoint import FOLDER, Progress
from training.fine_tuning.validation import Validation, best
from training.run_folder import Epoch

# the same course in both tasks' metrics: better, worse, equal, better again
VALUES: dict[Task, list[float]] = {
    "single": [0.5, 0.3, 0.4, 0.3, 0.2],
    "multi": [0.5, 0.7, 0.6, 0.7, 0.8],
}
METRIC: dict[Task, str] = {"single": "error", "multi": "map"}


def validation(
    path: Path, task: Task = "single", ranks: Ranks = ALONE, **changes: Any
) -> Validation:
    """Of a random network on 24 images."""
    (path / FOLDER).mkdir(exist_ok=True)
    return validation_of(network(), path, task, ranks, **changes)


def progress(task: Task, values: list[float], phase: str = "whole") -> Progress:
    measured: list[dict[str, Any]] = [{METRIC[task]: value} for value in values]
    return Progress(epochs=[replace(epoch(1, phase), **one) for one in measured])


@pytest.mark.parametrize(
    ("patience", "ended"),
    [
        (1, [False, False, False, True, True, False]),
        (2, [False, False, False, False, True, False]),
        (3, [False] * 6),
        (None, [False] * 6),
    ],
)
def test_training_stops_after_so_many_epochs_without_a_better_metric(
    task: Task, tmp_path: Path, patience: int | None, ended: list[bool]
) -> None:
    """An equal one is not better."""
    own = validation(tmp_path, task, early_stop=patience)
    done = [own.should_stop(progress(task, VALUES[task][:count])) for count in range(6)]
    assert done == ended


def test_epochs_of_the_head_count_only_if_no_others_follow(tmp_path: Path) -> None:
    worse = progress("single", [0.1, 0.5, 0.5], phase="head")
    assert not validation(tmp_path, early_stop=1, epochs=1).should_stop(worse)
    (tmp_path / "alone").mkdir()
    assert validation(tmp_path / "alone", early_stop=1, epochs=0).should_stop(worse)


@pytest.mark.parametrize(("earlier", "kept"), [("better", False), ("worse", True)])
def test_the_weights_of_an_epoch_are_kept_if_it_is_the_best_one(
    task: Task, tmp_path: Path, earlier: str, kept: bool
) -> None:
    """This epoch's own metric lies between those, which no network can have."""
    least, most = (-1.0, 2.0) if task == "single" else (2.0, -1.0)
    own = validation(tmp_path, task, early_stop=1)
    before = progress(task, [least if earlier == "better" else most])
    before.epochs.append(epoch(2))
    own.after_epoch(before)
    assert 0 <= getattr(before.epochs[-1], METRIC[task]) <= 1
    file = tmp_path / FOLDER / "best.weights"
    assert file.exists() == kept
    if kept:
        state = network().resnet.state_dict()
        assert all(torch.equal(state[name], value) for name, value in load_file(file).items())


def test_without_early_stopping_no_weights_are_kept(tmp_path: Path) -> None:
    validation(tmp_path).after_epoch(Progress(epochs=[epoch(1)]))
    assert list((tmp_path / FOLDER).iterdir()) == []


# What is reported of an epoch.


def epoch(number: int, phase: str = "whole") -> Epoch:
    return Epoch(phase=phase, epoch=number, train_loss=0.12346, images_per_s=10.3, seconds=12.3)


def test_each_epoch_is_measured_on_the_validation_images(
    task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, done = validation(tmp_path, task), Progress([0.75, 0.5], [epoch(2)])
    with torch.no_grad():  # else it predicts one label for all images
        own.network.resnet.fc.bias -= torch.from_numpy(own.logits().mean(0))
    own.after_epoch(done)
    logits, truth = own.logits(), own.targets
    scores = torch.from_numpy(logits)
    if task == "single":
        figure = float((logits.argmax(1) != truth.argmax(1)).mean())
        loss = -scores.log_softmax(1)[torch.from_numpy(truth)].mean()
    else:
        figure = float(average_precision_score(truth, logits))
        right = torch.where(torch.from_numpy(truth), scores.sigmoid(), 1 - scores.sigmoid())
        loss = -right.log().mean()
    assert 0 < figure < 1 and len(set(logits.argmax(1))) > 1
    expected = {
        "phase": "whole",
        "epoch": 2,
        "train_loss": 0.12346,
        "valid_loss": pytest.approx(float(loss), abs=2e-5),
        METRIC[task]: pytest.approx(figure, abs=1e-5),
        "images_per_s": 10.3,
        "seconds": 12.3,
    }
    (line,) = (one.line() for one in done.epochs)
    assert line == expected and list(line) == list(expected)
    for name in ("valid_loss", METRIC[task]):
        assert line[name] == round(line[name], 5)
    (written,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(written) == line
    with (tmp_path / "curves.csv").open() as curves:
        assert [float(row["loss"]) for row in csv.DictReader(curves)] == [0.75, 0.5]
    printed = "  ".join(f"{name} {value}" for name, value in line.items())
    assert capsys.readouterr().out == f"{printed}\n"


def test_a_label_that_no_validation_image_has_is_left_out_of_the_map(tmp_path: Path) -> None:
    own, done = validation(tmp_path, "multi"), Progress(epochs=[epoch(1)])
    truth = own.targets.copy()
    truth[:, 1] = False
    replace(own, targets=truth).after_epoch(done)
    expected = average_precision_score(truth[:, [0, 2]], own.logits()[:, [0, 2]])
    assert done.epochs[-1].map == pytest.approx(float(expected), abs=1e-5)


def test_only_the_first_process_writes_and_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = Progress(epochs=[epoch(1)])
    validation(tmp_path, ranks=Ranks(1, 1, ALONE.device), early_stop=1).after_epoch(done)
    assert len(done.epochs) == 1 and done.epochs[0].error is not None
    assert capsys.readouterr().out == ""
    assert [file.name for file in tmp_path.rglob("*")] == [FOLDER]


def test_validation_uses_the_precision_of_training(tmp_path: Path) -> None:
    losses = []
    for dtype in ("float32", "bfloat16"):
        done = Progress(epochs=[epoch(1)])
        validation(tmp_path, dtype=dtype).after_epoch(done)
        losses.append(done.epochs[0].valid_loss)
    exact, rounded = losses
    assert exact is not None
    assert exact != rounded and rounded == pytest.approx(exact, rel=0.05)


def test_the_first_of_equal_epochs_is_the_best(task: Task) -> None:
    for count, place in ((0, 0), (1, 0), (2, 1), (3, 1), (4, 1), (5, 4)):
        assert best(progress(task, VALUES[task][:count]).epochs) == place
