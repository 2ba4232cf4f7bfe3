"""A stopped run is resumed as if it had not been stopped: its files are bit-identical."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from models.bundle import sha256
from models.errors import RecipeError, RunError
from testkit import image_sets
from testkit.processes import (
    Command,
    files_of_at_most,
    interrupt_in_step_and_after,
    kill_when_written,
    signal_in_step,
    train_arguments,
)
from training import distributed, run_folder
from training.__main__ import main
from training.commands.train import resume, train
from training.data.image_source import Cached
from training.distributed import Ranks
from training.fine_tuning import batches, checkpoint, trainer
from training.fine_tuning.batches import TrainingSet
from training.fine_tuning.trainer import FineTuning
from training.recipe import Recipe
from training.run_folder import Run

SAME = ("network.safetensors", "metrics.json", "predictions.csv", "curves.csv", "split.jsonl")
STEPS = 9  # three epochs of three, the first of the head alone
Output = pytest.CaptureFixture[str]


class StoppedError(Exception):
    """Ends a run in the middle."""


def recipe_of(source: Path, **changes: Any) -> Recipe:
    """Twelve training images, and checkpoints as often as possible."""
    options = {"valid": 0.75, "batch_size": 4, "freeze_epochs": 1, "epochs": 2, "checkpoint_s": 0}
    return image_sets.recipe(source, **(options | changes))


def outcome(path: Path) -> dict[str, Any]:
    """Everything that must not depend on where a run was stopped."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"], line["images_per_s"]
    return {name: sha256((path / name).read_bytes()) for name in SAME} | {"metrics.jsonl": lines}


@contextmanager
def stopped_before(step: int, done: int) -> Iterator[None]:
    """In this process, a run with `done` finished steps fails in step `step`, from 0."""
    whole, left = FineTuning.step, step - done

    def fails(*arguments: Any) -> torch.Tensor:
        nonlocal left
        if left == 0:
            raise StoppedError
        left -= 1
        return whole(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FineTuning, "step", fails)
        yield


def steps_done(path: Path) -> int:
    found = checkpoint.read(path)
    return found.progress.step if found else -1


@pytest.fixture(scope="module")
def undisturbed(single_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(recipe_of(single_data), tmp_path_factory.mktemp("undisturbed") / "run")


@pytest.fixture(scope="module")
def begun(single_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders data and run; stopped before the first step. Not to be changed."""
    folder = tmp_path_factory.mktemp("begun")
    shutil.copytree(single_data, folder / "data")
    with pytest.raises(StoppedError), stopped_before(0, 0):
        train(recipe_of(folder / "data"), folder / "run")
    return folder


@pytest.fixture
def own(begun: Path, tmp_path: Path) -> Path:
    """The same run in a folder of its own, and images that can be changed; the run's folder."""
    path = Path(shutil.copytree(begun / "run", tmp_path / "run", copy_function=os.link))
    data = shutil.copytree(begun / "data", tmp_path / "data")
    recipe = json.loads((path / "recipe.json").read_text()) | {"data": str(data)}
    (path / "recipe.json").unlink()  # otherwise the run that it is linked to would change
    (path / "recipe.json").write_text(json.dumps(recipe))
    return path


def test_a_run_stopped_anywhere_and_resumed_is_the_undisturbed_one(
    undisturbed: Path, single_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run, stopped repeatedly: in the first step, in the middle and at the end of an epoch,
    in both phases, and after the last step. A checkpoint is written every second step."""
    monkeypatch.setattr(trainer, "_LOSS_STEPS", 2)
    with pytest.raises(StoppedError), stopped_before(0, 0):
        train(recipe_of(single_data), tmp_path / "run")
    kept = [steps_done(tmp_path / "run")]
    for step in (1, 2, 3, 5, 6, 8):
        with pytest.raises(StoppedError), stopped_before(step, kept[-1]):
            resume(tmp_path / "run")
        kept.append(steps_done(tmp_path / "run"))
    assert kept == [0, 0, 2, 3, 5, 6, 8]

    def unwritten(*_: Any) -> None:
        raise StoppedError

    with pytest.MonkeyPatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(run_folder, "write_end", unwritten)
        resume(tmp_path / "run")
    assert steps_done(tmp_path / "run") == STEPS
    assert not (tmp_path / "run" / "run.json").exists()
    resume(tmp_path / "run")
    assert outcome(tmp_path / "run") == outcome(undisturbed)


def test_a_complete_run_has_no_checkpoints(undisturbed: Path) -> None:
    assert not (undisturbed / "checkpoints").exists()
    assert run_folder.read(undisturbed).path == undisturbed


def test_early_stopping_keeps_the_best_epoch_wherever_the_run_was_stopped(
    single_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a learning rate of almost 0 no epoch is better than the first, whose norms are fixed."""
    recipe = recipe_of(single_data, early_stop=1, epochs=3, lr="1e-12")
    whole = train(recipe, tmp_path / "whole")
    assert len(outcome(whole)["metrics.jsonl"]) == 2
    assert int(load_file(whole / "network.safetensors")["bn1.num_batches_tracked"]) == 0
    monkeypatch.setattr(trainer, "_LOSS_STEPS", 1)
    with pytest.raises(StoppedError), stopped_before(4, 0):
        train(recipe, tmp_path / "run")
    with pytest.raises(StoppedError), stopped_before(5, 4):
        resume(tmp_path / "run")
    resume(tmp_path / "run")
    assert outcome(tmp_path / "run") == outcome(whole)


def test_early_stopping_waits_for_the_whole_network(single_data: Path, tmp_path: Path) -> None:
    recipe = recipe_of(single_data, early_stop=1, freeze_epochs=3, epochs=2, lr="1e-12")
    lines = outcome(train(recipe, tmp_path / "run"))["metrics.jsonl"]
    assert [line["phase"] for line in lines] == ["head", "head", "head", "whole"]


# Processes that really end.


@pytest.mark.parametrize(
    "moment",
    [
        partial(signal_in_step, signal.SIGKILL, 7),
        partial(kill_when_written, "checkpoints/*.safetensors", 3),
        partial(kill_when_written, "network.safetensors", 1),
        partial(kill_when_written, "run.json", 1),
    ],
    ids=["eighth step", "third checkpoint", "weights", "run.json"],
)
def test_a_killed_run_resumes_as_the_undisturbed_one(
    undisturbed: Path, single_data: Path, tmp_path: Path, moment: partial[None]
) -> None:
    """SIGKILL: nothing is cleaned up. `benchmarks/kill.py` does it at random moments."""
    path = tmp_path / "run"
    command = Command(
        train_arguments(recipe_of(single_data), path), tmp_path / "log", prepare=moment
    )
    assert command.code() == -signal.SIGKILL, command.err.read_text()
    assert not (path / "run.json").exists()
    assert main(["train", "--resume", str(path)]) == 0
    assert outcome(path) == outcome(undisturbed)
    assert not (path / "checkpoints").exists()


def test_ctrl_c_prints_how_to_resume_and_that_works(
    undisturbed: Path, single_data: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    moment = partial(interrupt_in_step_and_after, 4)
    command = Command(
        train_arguments(recipe_of(single_data), path), tmp_path / "log", prepare=moment
    )
    assert command.code() == 130
    expected = f"stopped; resume with: python -m training train --resume {path}\n"
    assert command.err.read_text() == expected
    assert steps_done(path) == 3
    assert main(expected.split()[-3:]) == 0
    assert outcome(path) == outcome(undisturbed)


def test_a_full_disk_ends_with_one_line_and_the_run_can_be_resumed(
    undisturbed: Path, single_data: Path, tmp_path: Path, capsys: Output
) -> None:
    """Checkpoints of the head phase are as large as the network, later ones three times."""
    path, words = tmp_path / "run", train_arguments(recipe_of(single_data), tmp_path / "run")
    with files_of_at_most(1_500_000):
        assert main(words) == 1
    text = capsys.readouterr().err
    assert text.startswith(f"error: {path / 'checkpoints'}/0000000006-")
    assert text.count("\n") == 1
    assert "cannot be written: File too large; make room" in text
    assert [file.name[:10] for file in sorted((path / "checkpoints").iterdir())] == [
        "0000000000",
        "0000000003",
    ]
    assert not list(path.rglob(".unfinished-*"))
    assert main(text.split()[-3:]) == 0
    assert outcome(path) == outcome(undisturbed)


def test_two_processes_cannot_train_into_one_folder(
    own: Path, single_data: Path, tmp_path: Path
) -> None:
    new = run_folder.create(tmp_path / "new")
    with run_folder.locked(own, first=True), run_folder.locked(new, first=True):  # by this process
        commands = [
            Command(["train", "--resume", str(own)], tmp_path / "1"),
            Command(train_arguments(recipe_of(single_data), new), tmp_path / "2"),
        ]
        assert [command.code() for command in commands] == [1, 1]
    for command, path in zip(commands, (own, new), strict=True):
        assert command.err.read_text() == f"error: another process is training into {path}\n"
    assert {file.name for file in new.iterdir()} <= {".lock"}


# What a resumed run uses.


def test_a_run_resumes_with_as_many_threads_as_it_started_with(own: Path) -> None:
    """Another number of them would sum in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with pytest.raises(StoppedError), stopped_before(0, 0):
            resume(own)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("changed", "red/003.jpg"),
        ("gone", "red/003.jpg"),
        ("new", "red/new.jpg"),
        ("of another label", "blue/moved.jpg, red/003.jpg"),
    ],
)
def test_changed_images_need_a_new_run(own: Path, change: str, named: str) -> None:
    data = own.parent / "data"
    file = data / "red" / "003.jpg"
    if change == "changed":
        file.write_bytes(image_sets.image(77))
    elif change == "gone":
        file.unlink()
    elif change == "new":
        (data / "red" / "new.jpg").write_bytes(image_sets.image(77))
    else:
        file.rename(data / "blue" / "moved.jpg")
    with pytest.raises(RunError, match=rf" of .*\({named}\): start a new run"):
        resume(own)


def test_a_run_on_two_threads_is_bit_identical_wherever_it_is_resumed(
    single_data: Path, tmp_path: Path
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        whole = train(recipe_of(single_data), tmp_path / "whole")
        with pytest.raises(StoppedError), stopped_before(5, 0):
            train(recipe_of(single_data), tmp_path / "run")
        torch.set_num_threads(1)
        resume(tmp_path / "run")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert outcome(tmp_path / "run") == outcome(whole)


def test_a_run_resumes_with_its_own_copy_of_the_quarantine_list(
    single_data: Path, tmp_path: Path
) -> None:
    """The original list has changed meanwhile."""
    rows = [["file", "reason"], ["red/003.jpg", "blurred"], ["blue/007.jpg", "blurred"]]
    listed = image_sets.write_csv(tmp_path / "mine.csv", rows)
    recipe = recipe_of(single_data, quarantine=str(listed))
    whole = train(recipe, tmp_path / "whole")
    with pytest.raises(StoppedError), stopped_before(4, 0):
        train(recipe, tmp_path / "run")
    image_sets.write_csv(listed, rows[:2])
    resume(tmp_path / "run")
    assert outcome(tmp_path / "run") == outcome(whole)
    files = {record.file for record in run_folder.read(whole).split.records}
    assert len(files) == 46 and not files & {"red/003.jpg", "blue/007.jpg"}


def test_a_corrupt_checkpoint_costs_only_its_own_steps(
    undisturbed: Path, single_data: Path, tmp_path: Path, capsys: Output
) -> None:
    with pytest.raises(StoppedError), stopped_before(4, 0):
        train(recipe_of(single_data), tmp_path)
    newest = sorted((tmp_path / "checkpoints").iterdir())[-1]
    assert newest.name.startswith("0000000003")
    newest.write_bytes(newest.read_bytes()[:-9])
    resume(tmp_path)
    assert f"{newest} is corrupt" in capsys.readouterr().out
    assert outcome(tmp_path) == outcome(undisturbed)


# What is refused.


def refused(words: list[str], output: Output) -> str:
    output.readouterr()
    assert main(words) == 1
    text = output.readouterr().err
    assert text.startswith("error: ")
    assert text.count("\n") == 1
    return text


def test_what_cannot_be_resumed_exits_with_1_and_one_line(
    own: Path, single_run: Run, tmp_path: Path, capsys: Output
) -> None:
    complete = refused(["train", "--resume", str(single_run.path)], capsys)
    assert "is complete: there is nothing to resume" in complete
    gone = tmp_path / "gone"
    assert f"{gone} is not a run: " in refused(["train", "--resume", str(gone)], capsys)
    for file in (own / "checkpoints").iterdir():
        file.unlink()
        file.write_bytes(b"torn")
    nothing = refused(["train", "--resume", str(own)], capsys)
    assert nothing == f"error: {own} has no intact checkpoint: start a new run\n"


def test_a_run_is_not_resumed_by_more_processes_than_could_have_trained_it(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its norms use each batch's statistics, of which each process would have its own."""

    @contextmanager
    def joined(device: torch.device) -> Iterator[Ranks]:
        yield Ranks(0, 2, device)

    monkeypatch.setattr(distributed, "joined", joined)
    with pytest.raises(RecipeError, match="2 processes on the CPU .*: use --norms fixed"):
        resume(own)


@pytest.mark.parametrize(
    "options",
    [["pets"], ["--seed", "3"], ["--recipe", "mine.toml"], ["--out", "elsewhere"], ["--workers=0"]],
)
def test_recipe_options_next_to_resume_are_wrong_usage(
    own: Path, capsys: Output, options: list[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["train", "--resume", str(own), *options])
    assert caught.value.code == 2
    text = capsys.readouterr().err
    assert "--resume RUN uses the run's own recipe: leave out " in text


def test_a_loss_that_is_not_finite_names_the_images_of_its_step(
    single_data: Path, tmp_path: Path, capsys: Output
) -> None:
    recipe = recipe_of(single_data, lr="1e10")
    text = refused(train_arguments(recipe, tmp_path), capsys)
    step = int(text.partition("the loss of step ")[2].split()[0]) - 1
    files = [record.file for record in run_folder.read_start(tmp_path)[1].train]
    targets = torch.zeros(len(files))
    pixels = Cached(torch.zeros(len(files), 1, 1, 3), torch.ones(len(files), 2))
    orders = batches.order(TrainingSet(pixels, files, targets), recipe, step // 3)
    listed = (tmp_path / "diverged.txt").read_text().splitlines()
    assert listed == [files[row] for row in orders[step % 3].tolist()]
    assert len(listed) == 4
    assert not (tmp_path / "run.json").exists()


def test_a_run_of_several_data_is_resumed_and_notices_what_changed_in_any(tmp_path: Path) -> None:
    data = tuple(
        str(image_sets.class_folders(tmp_path / name, 8, seed))
        for seed, name in enumerate(("first", "second"))
    )
    recipe = recipe_of(Path(data[0])).model_copy(update={"data": data})
    whole = train(recipe, tmp_path / "whole")
    with pytest.raises(StoppedError), stopped_before(1, 0):
        train(recipe, tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    resume(tmp_path / "run")
    for name in ("network.safetensors", "split.jsonl", "predictions.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes()
    assert run_folder.read(tmp_path / "run").outcome.more_roots == ("../second",)
    (tmp_path / "second" / "red" / "new.jpg").write_bytes(image_sets.image(99))
    with pytest.raises(
        RunError,
        match=rf"^1 image of {data[0]} and {data[1]} changed .*\(\.\./second/red/new\.jpg\)",
    ):
        resume(tmp_path / "again")
