"""What is told of an epoch; which one is the best, and when the others are enough."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score

from models.manifest import Task
from testkit import image_sets
from tests.training.fine_tuning.test_trainer import ALONE, images_of, network, pictures
from training import run_folder
from training.distributed import Ranks
from training.fine_tuning import checkpoint
from training.fine_tuning import validation as module
from training.fine_tuning.checkpoint import FOLDER, Progress
from training.fine_tuning.step_timer import Stages
from training.fine_tuning.trainer import Epoch, FineTuning
from training.fine_tuning.validation import HeldOut, Watch

# the same course in both tasks' figures: better, worse, as good, better again
FIGURES: dict[Task, list[float]] = {
    "single": [0.5, 0.3, 0.4, 0.3, 0.2],
    "multi": [0.5, 0.7, 0.6, 0.7, 0.8],
}
FIGURE: dict[Task, str] = {"single": "error", "multi": "map"}


def watch(path: Path, task: Task = "single", ranks: Ranks = ALONE, **changes: Any) -> Watch:
    """Over a network of chance and 24 pictures."""
    given = pictures(task)
    recipe = image_sets.recipe(task=task, **changes)
    tuning = FineTuning(network(), given, task, recipe, ranks)
    images = images_of(given).permute(0, 2, 3, 1).to(torch.uint8)
    (path / FOLDER).mkdir(exist_ok=True)
    return Watch(path, tuning, HeldOut(images, truth_of(task)))


def truth_of(task: Task) -> NDArray[np.bool_]:
    targets = pictures(task).targets.numpy()
    return targets > 0 if task == "multi" else np.eye(3, dtype=bool)[targets]


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
    own.after_epoch(epoch(2), before)
    assert 0 <= before.epochs[-1][FIGURE[task]] <= 1
    file = tmp_path / FOLDER / "best.weights"
    assert file.exists() == kept
    if kept:
        state = network().resnet.state_dict()
        assert all(torch.equal(state[name], value) for name, value in load_file(file).items())


def test_without_an_early_end_no_weights_are_kept(tmp_path: Path) -> None:
    watch(tmp_path).after_epoch(epoch(1), Progress())
    assert list((tmp_path / FOLDER).iterdir()) == []


# What is told of an epoch.


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time is the last of these."""
    times = [100.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: times[-1]))
    return times


class Bound(Stages):
    def verdict(self) -> str:
        return "the speed is bound by a test"


def epoch(number: int, phase: str = "whole") -> Epoch:
    return Epoch(phase, number, 0.123456789, 10.26, Bound(ALONE.device))


def test_a_line_an_epoch_is_measured_on_the_held_out_images(
    task: Task, tmp_path: Path, clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    own, done = watch(tmp_path, task), Progress([0.75, 0.5])
    clock.append(112.3456)
    own.after_epoch(epoch(2), done)
    logits, truth = own.logits(), truth_of(task)
    scores = torch.from_numpy(logits)
    if task == "single":
        figure = float((logits.argmax(1) != truth.argmax(1)).mean())
        loss = -scores.log_softmax(1)[torch.from_numpy(truth)].mean()
    else:
        figure = float(average_precision_score(truth, logits))
        right = torch.where(torch.from_numpy(truth), scores.sigmoid(), 1 - scores.sigmoid())
        loss = -right.log().mean()
    expected = {
        "phase": "whole",
        "epoch": 2,
        "train_loss": 0.12346,
        "valid_loss": pytest.approx(float(loss), abs=2e-5),
        FIGURE[task]: pytest.approx(figure, abs=1e-5),
        "images_per_s": 10.3,
        "seconds": 12.3,
    }
    (line,) = done.epochs
    assert line == expected and list(line) == list(expected)
    for name in ("valid_loss", FIGURE[task]):
        assert line[name] == round(line[name], 5)
    assert run_folder.read_epochs(tmp_path) == [line]
    assert [loss for _, loss in run_folder.read_curves(tmp_path)] == [0.75, 0.5]
    told = "  ".join(f"{name} {value}" for name, value in line.items())
    assert capsys.readouterr().out == f"{told}\nthe speed is bound by a test\n"


def test_what_bounds_the_speed_is_told_once_a_phase(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, done = watch(tmp_path), Progress()
    for number, phase in enumerate(("head", "head", "whole", "whole")):
        own.after_epoch(epoch(number, phase), done)
    starts = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert starts == ["phase", "the", "phase", "phase", "the", "phase"]


def test_a_label_that_no_held_out_image_has_is_left_out_of_the_map(tmp_path: Path) -> None:
    own, done = watch(tmp_path, "multi"), Progress()
    truth = truth_of("multi")
    truth[:, 1] = False
    held_out = HeldOut(own._held_out.images, truth)
    Watch(tmp_path, own._tuning, held_out).after_epoch(epoch(1), done)
    expected = average_precision_score(truth[:, [0, 2]], own.logits()[:, [0, 2]])
    assert done.epochs[-1]["map"] == pytest.approx(float(expected), abs=1e-5)


def test_only_the_first_process_writes_and_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, done = watch(tmp_path, ranks=Ranks(1, 1, ALONE.device), early_stop=1), Progress()
    other.after_epoch(epoch(1), done)
    assert len(done.epochs) == 1
    assert capsys.readouterr().out == ""
    assert [file.name for file in tmp_path.rglob("*")] == [FOLDER]


def test_an_epoch_is_measured_in_training_s_own_precision(tmp_path: Path) -> None:
    done = Progress()
    for dtype in ("float32", "bfloat16"):
        watch(tmp_path, dtype=dtype).after_epoch(epoch(1), done)
    exact, rounded = (line["valid_loss"] for line in done.epochs)
    assert exact != rounded and rounded == pytest.approx(exact, rel=0.05)


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    own = watch(tmp_path)
    tuning = own._tuning
    optimizer = torch.optim.AdamW(tuning.network.resnet.parameters())
    tuning.network(torch.zeros(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    own.save(Progress([0.5]), optimizer)
    found = checkpoint.read(tmp_path)
    assert found and found.progress == Progress([0.5])
    assert {f"exp_avg.{n}" for n, _ in tuning.network.resnet.named_parameters()} <= set(
        found.tensors
    )
    for name, value in tuning.network.resnet.state_dict().items():
        assert torch.equal(found.tensors[f"network.{name}"], value)
