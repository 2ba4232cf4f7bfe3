"""Several processes train as one does. They are started as torchrun starts them."""

import csv
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from models.errors import RecipeError
from testkit import image_sets
from testkit.processes import Command, signal_in_step, train_arguments
from testkit.servers import free_port
from training import run_folder
from training.distributed import Ranks, joined
from training.fine_tuning.trainer import check_processes
from training.network import pretrained
from training.recipe import Recipe

CPU = torch.device("cpu")


def together(
    words: list[str], logs: Path, prepare: Callable[[], None] | None = None, count: int = 2
) -> list[Command]:
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(count)}
    return [
        Command(
            words,
            logs / f"{rank}",
            shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            prepare,
        )
        for rank in range(count)
    ]


def recipe_of(source: Path, **changes: Any) -> Recipe:
    """Epochs of three steps with eight or nine images; normalisation does not depend on batches."""
    options = {"valid": 0.5, "batch_size": 9, "freeze_epochs": 1, "epochs": 1, "norms": "fixed"}
    return image_sets.recipe(source, **(options | {"lr": "1e-3"} | changes))


def curve(path: Path) -> list[tuple[float, float]]:
    rows = csv.DictReader((path / "curves.csv").read_text().splitlines())
    return [(float(row["rate"]), float(row["loss"])) for row in rows]


@pytest.fixture(scope="module")
def pair(multi_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The run of one process, that of two, and the log of the two."""
    folder = tmp_path_factory.mktemp("pair")
    alone = Command(train_arguments(recipe_of(multi_data), folder / "alone"), folder / "log")
    both = together(train_arguments(recipe_of(multi_data), folder / "both"), folder)
    assert [command.code() for command in (alone, *both)] == [0, 0, 0], [
        command.err.read_text() for command in (alone, *both)
    ]
    return folder / "alone", folder / "both", folder


def test_two_processes_have_the_losses_of_one(pair: tuple[Path, Path, Path]) -> None:
    """25 images in batches of 9, 8 and 8: the processes' parts differ in size."""
    alone, both, _ = pair
    assert len(curve(alone)) == 6
    assert [lr for lr, _ in curve(both)] == [lr for lr, _ in curve(alone)]
    theirs = [loss for _, loss in curve(alone)]
    assert [loss for _, loss in curve(both)] == pytest.approx(theirs, rel=1e-5)


def test_two_processes_have_the_weights_of_one(
    pair: tuple[Path, Path, Path], multi_data: Path
) -> None:
    """In each tensor they differ by a small fraction of the change in training, measured as 3e-5:
    AdamW's first steps are as large as the learning rate, whatever the gradient, so a weight
    whose gradient is only rounding may step the other way."""
    start, _ = pretrained.start(recipe_of(multi_data), 3)
    ours, theirs = (load_file(path / "network.safetensors") for path in pair[:2])
    learned = 0
    for name, begun in start.resnet.state_dict().items():
        distance = (theirs[name] - begun).float().norm()
        learned += bool(distance > 0)
        assert (ours[name] - theirs[name]).float().norm() <= 0.01 * distance, name
    assert learned == len(list(start.resnet.parameters()))


def test_the_run_is_written_once_and_whole(pair: tuple[Path, Path, Path]) -> None:
    alone, both, _ = pair
    made, expected = run_folder.read(both), run_folder.read(alone)
    assert {f.name for f in both.iterdir()} == {f.name for f in alone.iterdir()}
    assert made.split == expected.split
    for name, metric in made.outcome.metrics.items():
        assert metric.value == pytest.approx(expected.outcome.metrics[name].value, abs=0.02), name


def test_only_the_first_process_prints(pair: tuple[Path, Path, Path]) -> None:
    first, second = (pair[2] / f"{rank}.out" for rank in (0, 1))
    assert first.read_text().count("phase head  epoch 1") == 1
    assert second.read_text() == ""


def test_two_killed_processes_resume_as_if_they_had_not_been_killed(
    pair: tuple[Path, Path, Path], multi_data: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    moment = partial(signal_in_step, signal.SIGKILL, 4)  # the second of the second epoch
    begun = together(train_arguments(recipe_of(multi_data), path), tmp_path, moment)
    assert [command.code() for command in begun] == [-signal.SIGKILL] * 2
    assert not (path / "run.json").exists()
    resumed = together(["train", "--resume", str(path)], tmp_path)
    assert [command.code() for command in resumed] == [0, 0]
    for name in ("network.safetensors", "curves.csv"):
        assert (path / name).read_bytes() == (pair[1] / name).read_bytes(), name


def test_the_shares_of_all_processes_are_the_whole() -> None:
    rows = torch.arange(11).view(11, 1)
    shares = [Ranks(rank, 4, CPU).share(rows) for rank in range(4)]
    assert [len(share) for share in shares] == [3, 3, 3, 2]
    assert torch.equal(torch.cat(shares), rows)


def test_one_process_is_the_first_and_has_everything() -> None:
    with joined(CPU) as alone:
        assert (alone.rank, alone.count, alone.first, alone.device) == (0, 1, True, CPU)
    assert not Ranks(1, 2, CPU).first
    values, network = torch.rand(3), torch.nn.Linear(2, 2)
    assert torch.equal(alone.share(values), values)
    assert torch.equal(alone.sum(values), values)
    assert torch.equal(alone.gather(values), values)
    assert alone.broadcast("here") == "here"
    assert alone.wrap(network) is network


def test_more_processes_than_images_in_a_step_are_refused(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, batch_size=4)
    check_processes(recipe, Ranks(0, 3, CPU), 7)
    with pytest.raises(RecipeError, match="4 processes, but only 3 images in a step: .*than 4"):
        check_processes(recipe, Ranks(0, 4, CPU), 7)


def test_several_processes_on_the_cpu_need_fixed_norms(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, norms="batch")
    check_processes(recipe, Ranks(0, 1, CPU), 9)
    with pytest.raises(RecipeError, match="use --norms fixed"):
        check_processes(recipe, Ranks(0, 2, CPU), 9)
