import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file

from models.errors import RunError
from testkit import image_sets
from training import run_folder
from training.run_folder import Run

FILES = {
    "conformal.json",
    "novelty.safetensors",
    "recipe.json",
    "split.jsonl",
    "provenance.json",
    "metrics.jsonl",
    "curves.csv",
    "network.safetensors",
    "metrics.json",
    "predictions.csv",
    "report.html",
    "run.json",
}


def copied(of: Run, folder: Path) -> Path:
    """The same run in another folder, which may be changed; its files are linked."""
    for file in of.path.iterdir():
        os.link(file, folder / file.name)
    return folder


def replaced(file: Path, content: bytes) -> None:
    file.unlink()  # otherwise the run that it is linked to would change
    file.write_bytes(content)


def test_a_run_holds_these_files(single_run: Run, multi_run: Run) -> None:
    for made in (single_run, multi_run):
        assert {file.name for file in made.path.iterdir()} - {".lock"} == FILES


def test_a_run_is_read_back_as_it_was_written(multi_run: Run, tmp_path: Path) -> None:
    network = multi_run.network()
    run_folder.write_start(
        tmp_path, image_sets.recipe(), multi_run.split, multi_run.outcome.provenance
    )
    run_folder.write_weights(tmp_path, network.weights())
    run_folder.write_end(tmp_path, multi_run.outcome)
    again = run_folder.read(tmp_path)
    assert (again.outcome, again.split) == (multi_run.outcome, multi_run.split)
    state = again.network().resnet.state_dict()
    assert all(torch.equal(state[n], value) for n, value in network.resnet.state_dict().items())


@pytest.mark.parametrize(
    ("option", "copy"),
    [
        ("quarantine", "quarantine.csv"),
        ("correct", "corrections.csv"),
        ("relabel", "relabel.csv"),
    ],
)
def test_a_run_keeps_the_lists_that_it_was_made_with(
    multi_run: Run, tmp_path: Path, option: str, copy: str
) -> None:
    listed = image_sets.write_csv(tmp_path / "mine.csv", [["file", "reason"], ["a.jpg", "bad"]])
    (tmp_path / "run").mkdir()
    recipe = image_sets.recipe(**{option: str(listed)})
    run_folder.write_start(tmp_path / "run", recipe, multi_run.split, multi_run.outcome.provenance)
    assert (tmp_path / "run" / copy).read_bytes() == listed.read_bytes()


def test_the_network_is_ready_to_be_evaluated(single_run: Run) -> None:
    network = single_run.network()
    assert not network.training
    assert network.resnet.fc.out_features == 3
    assert {value.device.type for value in network.state_dict().values()} == {"cpu"}


def test_the_recipe_is_kept_as_it_was_resolved(single_run: Run) -> None:
    kept = json.loads((single_run.path / "recipe.json").read_text())
    assert kept == single_run.outcome.provenance.recipe
    assert kept["task"] == "single"  # inferred from the data
    assert kept["arch"] == "resnet18"
    assert kept["valid"] == 0.5


def test_a_recipe_of_another_version_is_refused(single_run: Run) -> None:
    origin = single_run.outcome.provenance
    other = origin.model_copy(update={"recipe": {**origin.recipe, "momentum": 0.9}})
    run = replace(single_run, outcome=single_run.outcome.model_copy(update={"provenance": other}))
    with pytest.raises(RunError, match="run.json has an invalid recipe: momentum: Extra inputs"):
        _ = run.recipe


def test_each_epoch_has_a_line_of_metrics(single_run: Run, multi_run: Run) -> None:
    for made, headline in ((single_run, "error"), (multi_run, "map")):
        text = (made.path / "metrics.jsonl").read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        assert [(line["phase"], line["epoch"]) for line in lines] == [
            ("head", 1),
            ("whole", 2),
            ("whole", 3),
            ("whole", 4),
        ]
        for line in lines:
            assert list(line) == [
                "phase",
                "epoch",
                "train_loss",
                "valid_loss",
                headline,
                "images_per_s",
                "seconds",
            ]
            assert 0 <= line[headline] <= 1
            assert min(line["train_loss"], line["valid_loss"], line["images_per_s"]) > 0
        seconds = [line["seconds"] for line in lines]
        assert seconds == sorted(seconds)


def test_each_step_s_learning_rate_and_loss_are_kept(single_run: Run) -> None:
    header, *rows = (single_run.path / "curves.csv").read_text().splitlines()
    assert header == "step,rate,loss"
    steps, lrs, losses = zip(*(map(float, row.split(",")) for row in rows), strict=True)
    assert steps == tuple(range(1, 9))  # four epochs of two
    text = (single_run.path / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    for epoch, line in enumerate(lines):  # both steps have twelve images
        mean = sum(losses[2 * epoch : 2 * epoch + 2]) / 2
        assert mean == pytest.approx(line["train_loss"], abs=1e-5)
    assert max(lrs[:2]) > 1.5 * max(lrs[2:])  # of --lr alone, then of half of it
    assert 0 < min(lrs) < max(lrs) <= 6e-3


def test_weights_have_torchvision_s_keys(single_run: Run) -> None:
    state = load_file(single_run.path / "network.safetensors")
    assert state.keys() == torchvision.models.resnet18().state_dict().keys()


def test_a_new_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    out = tmp_path / "some" / "where"
    assert run_folder.create(out) == out
    assert out.is_dir()
    assert run_folder.create(out) == out  # it is still empty


def test_without_a_name_a_run_is_named_by_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = run_folder.create(None)
    assert re.fullmatch(r"runs/\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", path.as_posix())
    assert path.is_dir()


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path, tmp_path / "file"):
        with pytest.raises(RunError, match="exists and is not empty; give another .* with --out"):
            run_folder.create(out)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="file/run cannot be created: Not a directory"):
        run_folder.create(tmp_path / "file" / "run")


def test_the_error_for_a_folder_that_is_not_a_run_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a complete run: .*run.json is missing; make one with"):
        run_folder.read(tmp_path)


@pytest.mark.parametrize("content", [b"{", b"{}", b"[]", b"\xff"])
def test_a_corrupt_outcome_is_refused(multi_run: Run, tmp_path: Path, content: bytes) -> None:
    replaced(copied(multi_run, tmp_path) / "run.json", content)
    with pytest.raises(RunError, match="run.json is corrupt: ") as caught:
        run_folder.read(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_outcome_with_too_few_thresholds_is_refused(multi_run: Run, tmp_path: Path) -> None:
    outcome = json.loads((multi_run.path / "run.json").read_text())
    outcome["thresholds"].pop()
    replaced(copied(multi_run, tmp_path) / "run.json", json.dumps(outcome).encode())
    with pytest.raises(RunError, match="one threshold per label"):
        run_folder.read(tmp_path)


def test_a_split_that_is_not_the_one_trained_on_is_refused(multi_run: Run, tmp_path: Path) -> None:
    """A lost line would let a training image into the evaluation."""
    file = copied(multi_run, tmp_path) / "split.jsonl"
    whole = file.read_bytes()
    replaced(file, whole.partition(b"\n")[2])
    with pytest.raises(RunError, match="split.jsonl was changed"):
        run_folder.read(tmp_path)
    replaced(file, whole[: len(whole) // 2])
    with pytest.raises(RunError, match="split.jsonl is missing or corrupt"):
        run_folder.read(tmp_path)
    file.unlink()
    with pytest.raises(RunError, match="split.jsonl is missing or corrupt"):
        run_folder.read(tmp_path)


def test_corrupt_weights_are_refused(single_run: Run, tmp_path: Path) -> None:
    file = copied(single_run, tmp_path) / "network.safetensors"
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"weights"):
        replaced(file, content)
        with pytest.raises(RunError, match="network.safetensors is missing or corrupt"):
            run_folder.read(tmp_path).network()
    save_file({"conv1.weight": torch.zeros(2)}, file)
    with pytest.raises(RunError, match="network.safetensors is missing or corrupt"):
        run_folder.read(tmp_path).network()
    file.unlink()
    with pytest.raises(RunError, match="network.safetensors is missing or corrupt"):
        run_folder.read(tmp_path).network()


# Starting and resuming.


def started(folder: Path, of: Run, **changes: Any) -> Path:
    run_folder.write_start(folder, image_sets.recipe(**changes), of.split, of.outcome.provenance)
    return folder


def test_what_a_run_started_with_is_read_back(multi_run: Run, tmp_path: Path) -> None:
    path = started(tmp_path, multi_run, seed=7)
    assert run_folder.read_start(path) == (image_sets.recipe(seed=7), multi_run.split)
    assert run_folder.read_provenance(path) == multi_run.outcome.provenance


def test_a_second_run_into_a_folder_does_not_start(multi_run: Run, tmp_path: Path) -> None:
    """Both found it empty; the other one was first."""
    started(tmp_path, multi_run, seed=7)
    with pytest.raises(RunError, match="is in use; give another folder with --out"):
        started(tmp_path, multi_run, seed=8)
    assert run_folder.read_start(tmp_path)[0].seed == 7


def test_there_is_nothing_to_resume_in_a_complete_run(multi_run: Run) -> None:
    with pytest.raises(RunError, match="is complete: there is nothing to resume"):
        run_folder.read_start(multi_run.path)


def test_a_folder_without_a_recipe_is_not_a_run(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "gone"):
        with pytest.raises(RunError, match=r"is not a run: .*recipe.json is missing"):
            run_folder.read_start(folder)


def test_a_corrupt_start_of_a_run_is_named(multi_run: Run, tmp_path: Path) -> None:
    path = started(tmp_path, multi_run)
    for name, reader in (
        ("provenance.json", run_folder.read_provenance),
        ("recipe.json", run_folder.read_start),
    ):
        (path / name).write_bytes(b"{")
        with pytest.raises(RunError, match=f"{name} is (missing or )?corrupt"):
            reader(path)


def test_a_run_has_its_own_lists(tmp_path: Path) -> None:
    recipe = image_sets.recipe(quarantine="mine.csv", correct="right.csv", relabel="new.csv")
    own = run_folder.with_own_lists(tmp_path, recipe)
    assert own.quarantine == str(tmp_path / "quarantine.csv")
    assert own.correct == str(tmp_path / "corrections.csv")
    assert own.relabel == str(tmp_path / "relabel.csv")
    assert run_folder.with_own_lists(tmp_path, image_sets.recipe()) == image_sets.recipe()


def test_only_one_process_at_a_time_locks_a_folder(tmp_path: Path) -> None:
    with run_folder.locked(tmp_path, first=True):
        with pytest.raises(RunError, match=f"another process is training into {tmp_path}"):
            run_folder.locked(tmp_path, first=True).__enter__()
        with run_folder.locked(tmp_path, first=False):  # another process of the same run
            assert (
                run_folder.create(tmp_path) == tmp_path
            )  # a folder with only a lock counts as empty
    with run_folder.locked(tmp_path, first=True):
        pass


def test_a_folder_that_cannot_be_locked_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(RunError, match="file cannot be written to: "),
        run_folder.locked(tmp_path / "file", first=True),
    ):
        pass
