import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.bundle import sha256
from models.errors import DataError, RecipeError, RunError
from testkit import image_sets
from testkit.opens import opened
from training import run_folder
from training.commands.train import train
from training.data import datasets, decoding, file_scan
from training.data.record import Record
from training.data.targets import encode
from training.evaluation import calibration, calibration_error, decisions, evaluate, metrics
from training.evaluation import novelty as estimation
from training.fine_tuning import checkpoint
from training.fine_tuning.checkpoint import Checkpoint
from training.fine_tuning.trainer import DivergedError, FineTuning
from training.network import inference, novelty, pretrained
from training.run_folder import Run

CPU = torch.device("cpu")
ONE_EPOCH = {"freeze_epochs": 1, "epochs": 0}


def logits_of(made: Run, root: Path) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
    files = [root / record.file for record in made.split.valid]
    images = decoding.served(files, made.outcome.preprocess)
    return inference.logits_of(made.network(), images, CPU)


def targets_of(made: Run) -> "np.ndarray[tuple[int, int], np.dtype[np.bool_]]":
    return encode(made.split.valid, made.outcome.labels)


def test_a_run_knows_its_task_and_its_labels(single_run: Run, multi_run: Run) -> None:
    for made, task in ((single_run, "single"), (multi_run, "multi")):
        assert made.outcome.task == task
        assert made.outcome.labels == ("blue", "green", "red")
        assert made.outcome.arch == "resnet18"
        assert made.outcome.preprocess.image_size_px == 32
        assert made.outcome.preprocess.crop_fraction == 0.9
        assert (made.outcome.thresholds is None) == (task == "single")


def test_the_split_has_every_image_with_its_hash_and_label(
    single_run: Run, single_data: Path
) -> None:
    files = sorted(single_data.rglob("*.jpg"))
    records = single_run.split.records
    assert [single_data / record.file for record in records] == files
    assert [record.sha256 for record in records] == [sha256(f.read_bytes()) for f in files]
    assert [record.labels for record in records] == [(file.parent.name,) for file in files]
    validation = [record.labels[0] for record in single_run.split.valid]
    assert [validation.count(label) for label in single_run.outcome.labels] == [8, 8, 8]


def test_a_run_knows_where_its_images_are(
    single_run: Run, single_data: Path, multi_run: Run, multi_data: Path
) -> None:
    assert single_run.outcome.root == str(single_data)
    assert multi_run.outcome.root == str(multi_data.parent / "images")


def test_each_image_is_opened_once_and_in_training_again_for_novelty(
    single_data: Path, tmp_path: Path
) -> None:
    """Although files on both sides of the split are hashed, scanned and decoded."""
    data = shutil.copytree(single_data, tmp_path / "data")
    with opened() as files:
        train(image_sets.recipe(data, **ONE_EPOCH), tmp_path / "run")
    again = [data / record.file for record in run_folder.read(tmp_path / "run").split.train]
    expected = sorted([*data.rglob("*.jpg"), *again])
    assert sorted(file for file in files if file.suffix == ".jpg") == expected


def test_novelty_is_of_the_training_images_as_they_are_served(run: Run) -> None:
    """And its values are those of the validation images."""
    outcome, root = run.outcome, Path(run.outcome.root)

    def features_of(records: Sequence[Record]) -> Any:
        images = decoding.served([root / record.file for record in records], outcome.preprocess)
        return inference.features_and_logits_of(run.network(), images, CPU)[0]

    targets = encode(run.split.train, outcome.labels)
    expected = novelty.fit(features_of(run.split.train), targets, outcome.task)
    found, held_out = run.novelty(), run.held_out()
    assert expected is not None and found is not None and held_out is not None
    of_valid = found.of(features_of(run.split.valid))
    np.testing.assert_allclose(of_valid, expected.of(features_of(run.split.valid)), rtol=1e-3)
    assert held_out.novelty is not None
    np.testing.assert_allclose(held_out.novelty, np.sort(of_valid), rtol=1e-4)
    assert (held_out.mass_before is None) is (outcome.task == "multi")


@pytest.mark.parametrize("why", ["missing", "too few"])
def test_a_run_without_novelty_is_complete_and_says_why(
    single_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    why: str,
) -> None:
    """A file that vanished while hours of training went on must not cost them."""
    data = shutil.copytree(single_data, tmp_path / "data")
    if why == "missing":
        real = estimation.estimate

        def vanished(network: Any, images: Any, *more: Any) -> Any:
            (data / images.split.train[0].file).unlink()
            return real(network, images, *more)

        monkeypatch.setattr(estimation, "estimate", vanished)
    else:
        monkeypatch.setattr(estimation, "MOST", 4)
    train(image_sets.recipe(data, **ONE_EPOCH), tmp_path / "run")
    made = run_folder.read(tmp_path / "run")
    assert made.novelty() is None and made.held_out() is None
    expected = {
        "missing": "novelty left out: 1 image cannot be used",
        "too few": "novelty left out: too few training images for it",
    }
    assert expected[why] in capsys.readouterr().out


def answers(task: str, request: pytest.FixtureRequest) -> tuple[Run, Any, Any]:
    """The run of the task, with its network's logits of the validation images and their targets."""
    made: Run = request.getfixturevalue(f"{task}_run")
    source: Path = request.getfixturevalue(f"{task}_data")
    root = source if source.is_dir() else source.parent / "images"
    return made, logits_of(made, root), targets_of(made)


@pytest.mark.parametrize("task", ["single", "multi"])
def test_metrics_are_cross_fitted_on_the_validation_images(
    task: str, request: pytest.FixtureRequest
) -> None:
    made, logits, targets = answers(task, request)
    outcome = made.outcome
    scores, tags = calibration.cross_fitted(logits, targets, outcome.task)
    figures = evaluate.task_metrics(outcome.task, scores, tags, targets)
    expected = metrics.with_intervals(figures, len(scores))
    before = calibration.probabilities(logits, outcome.task, 1)
    for name, predicted in (("", scores), ("_uncalibrated", before)):
        expected[f"rms_calibration_error{name}"] = calibration_error.measure(
            *decisions.calibration_pairs(outcome.task, predicted, targets)
        )
    for name, metric in outcome.metrics.items():
        assert metric.value == pytest.approx(expected[name].value, abs=1e-4), name
        assert metric.low == pytest.approx(expected[name].low, abs=1e-3), name
    kept = json.loads((made.path / "metrics.json").read_text())
    assert kept.pop("images") == len(scores)
    assert [one["label"] for one in kept.pop("labels")] == list(outcome.labels)
    assert kept == {name: metric.model_dump() for name, metric in outcome.metrics.items()}
    lines = (made.path / "predictions.csv").read_text().splitlines()
    assert lines[0] == "path,target,blue,green,red"
    written = np.array([line.split(",")[2:] for line in lines[1:]], np.float32)
    np.testing.assert_allclose(written, scores, atol=1e-4)
    files = [record.file for record in made.split.valid]
    assert [line.split(",")[0] for line in lines[1:]] == files


@pytest.mark.parametrize("task", ["single", "multi"])
def test_what_is_shipped_is_fitted_on_all_validation_images(
    task: str, request: pytest.FixtureRequest
) -> None:
    made, logits, targets = answers(task, request)
    outcome = made.outcome
    temperature = calibration.fit_temperature(logits, targets, outcome.task)
    assert outcome.temperature == pytest.approx(temperature, rel=1e-3)
    shipped = calibration.probabilities(logits, outcome.task, temperature)
    if outcome.thresholds is not None:
        expected = calibration.fit_thresholds(shipped, targets)
        assert outcome.thresholds == pytest.approx(expected, abs=1e-4)
    predicted = decisions.decide(shipped, outcome.thresholds)
    assert outcome.baseline == decisions.baseline(shipped, predicted)


def test_the_task_can_be_learned(single_run: Run) -> None:
    """By chance two of three would be wrong."""
    assert single_run.outcome.metrics["error"].value < 0.4


@pytest.mark.parametrize("task", ["single", "multi"])
def test_the_same_recipe_gives_a_bit_identical_run(
    task: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source: Path = request.getfixturevalue(f"{task}_data")
    names = ("network.safetensors", "split.jsonl", "predictions.csv", "metrics.json")
    made = [
        train(image_sets.recipe(source, seed=seed, **ONE_EPOCH), tmp_path / name)
        for name, seed in (("first", 7), ("again", 7), ("other", 8))
    ]
    contents = [[(path / name).read_bytes() for name in names] for path in made]
    assert contents[0] == contents[1]
    assert not any(a == b for a, b in zip(contents[0], contents[2], strict=True))


def test_class_folders_can_be_trained_as_a_multi_label_task(
    single_data: Path, tmp_path: Path
) -> None:
    made = run_folder.read(
        train(image_sets.recipe(single_data, task="multi", **ONE_EPOCH), tmp_path)
    )
    assert made.outcome.task == "multi"
    assert "map" in made.outcome.metrics
    assert len(made.outcome.thresholds or ()) == 3


def test_an_official_split_decides_which_images_validate(tmp_path: Path) -> None:
    table = image_sets.table(tmp_path / "data", 20)
    header, *rows = [line.split(",") for line in table.read_text().splitlines()]
    sides = [[*row, str(number % 4 == 1)] for number, row in enumerate(rows)]
    image_sets.write_csv(table, [[*header, "is_valid"], *sides])
    made = run_folder.read(train(image_sets.recipe(table, **ONE_EPOCH), tmp_path / "run"))
    assert [record.side == "valid" for record in made.split.records] == [
        n % 4 == 1 for n in range(20)
    ]


def test_a_single_label_task_needs_two_labels(tmp_path: Path) -> None:
    image_sets.put(tmp_path / "data", "cat/a.jpg", "cat/b.jpg", "cat/c.jpg")
    with pytest.raises(DataError, match=r"has 1 label \(cat\); a single-label task needs two"):
        train(image_sets.recipe(tmp_path / "data"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_multi_label_task_needs_one_label(tmp_path: Path) -> None:
    names = [f"{number}.jpg" for number in range(12)]
    image_sets.put(tmp_path, *names)
    rows = [["fname", "labels"], *([name, ""] for name in names)]
    table = image_sets.write_csv(tmp_path / "l.csv", rows)
    with pytest.raises(DataError, match=r"has 0 labels"):
        train(image_sets.recipe(table), tmp_path / "run")
    rows[1:7] = [[name, "cat"] for name in names[:6]]
    image_sets.write_csv(table, rows)
    made = run_folder.read(train(image_sets.recipe(table, **ONE_EPOCH), tmp_path / "run"))
    assert made.outcome.labels == ("cat",)


@pytest.mark.parametrize("side", ["True", "False"])
def test_a_side_without_any_label_is_refused(tmp_path: Path, side: str) -> None:
    names = [f"{number}.jpg" for number in range(8)]
    image_sets.put(tmp_path, *names)
    other = "False" if side == "True" else "True"
    rows = [[n, "", side] if i < 4 else [n, "cat dog", other] for i, n in enumerate(names)]
    table = image_sets.write_csv(tmp_path / "l.csv", [["fname", "labels", "is_valid"], *rows])
    with pytest.raises(DataError, match="4 images without a single label"):
        train(image_sets.recipe(table, **ONE_EPOCH), tmp_path / "run")


def test_a_corrupt_image_is_named_and_the_folder_can_be_used_again(
    single_data: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(single_data, tmp_path / "data")
    for file in (moved / "red" / "003.jpg", moved / "blue" / "007.jpg"):
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError) as caught:
            train(image_sets.recipe(moved, **ONE_EPOCH), tmp_path / "run")
        assert f"1 image cannot be used: {file}: " in str(caught.value)
        file.write_bytes(whole)
    assert train(image_sets.recipe(moved, **ONE_EPOCH), tmp_path / "run") == tmp_path / "run"


def test_near_duplicates_stay_on_one_side(tmp_path: Path) -> None:
    """Ten photographs of each label, each four times: as it is, smaller, recompressed, darker."""
    for number in range(20):
        folder = tmp_path / "data" / ("cat" if number < 10 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        photo = image_sets.photo(number, (80, 60))
        photo.save(folder / f"{number}-0.png")
        photo.resize((60, 45)).save(folder / f"{number}-1.jpg")
        photo.save(folder / f"{number}-2.jpg", quality=60)
        photo.point(lambda level: level * 0.9).save(folder / f"{number}-3.png")
    made = run_folder.read(
        train(image_sets.recipe(tmp_path / "data", **ONE_EPOCH), tmp_path / "run")
    )
    records = made.split.records
    sides = {(Path(record.file).name.partition("-")[0], record.side) for record in records}
    assert len(sides) == 20
    assert len(made.split.valid) == 16


def test_an_empty_class_folder_and_alike_labels_are_refused_before_images_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_scan, "scan", unread)
    image_sets.put(tmp_path / "data", "cat/a.jpg", "Cat /b.jpg")
    with pytest.raises(DataError, match="'Cat ', 'cat' differ only by case or spaces"):
        train(image_sets.recipe(tmp_path / "data"), tmp_path / "run")
    (tmp_path / "data" / "dog").mkdir()
    with pytest.raises(DataError, match="1 class folder of .*: dog; "):
        train(image_sets.recipe(tmp_path / "data"), tmp_path / "run")


def test_files_that_are_not_used_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = image_sets.class_folders(tmp_path / "data", 4)
    image_sets.put(folder, "stray.jpg", "red/a.gif", "red/b.gif", "red/.hidden.jpg")
    train(image_sets.recipe(folder, **ONE_EPOCH), tmp_path / "run")
    expected = (
        "3 files not used (2 .gif, 1 .jpg), among them 1 image next to the class folders, without"
        " a label: inspect names them\n"
    )
    assert expected in capsys.readouterr().out


def test_a_fraction_that_leaves_a_side_empty_is_refused(tmp_path: Path) -> None:
    image_sets.put(tmp_path / "data", "cat/a.jpg", "dog/b.jpg")
    with pytest.raises(DataError, match="no image for validation: 2 images in all"):
        train(image_sets.recipe(tmp_path / "data", valid=0.99), tmp_path / "run")


def test_a_folder_in_use_is_refused_before_anything_is_trained(
    single_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FineTuning, "run", lambda *arguments: pytest.fail("it was trained"))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="exists and is not empty"):
        train(image_sets.recipe(single_data), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_a_run_that_diverged_is_not_complete(single_data: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="training diverged; use a lower --lr"):
        train(image_sets.recipe(single_data, lr="1e10", epochs=6), tmp_path)
    assert (tmp_path / "recipe.json").exists()
    with pytest.raises(RunError, match="not a complete run"):
        run_folder.read(tmp_path)


def test_an_image_that_diverged_is_named_though_its_name_is_not_utf_8(
    single_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverges(*arguments: Any) -> None:
        raise DivergedError("training diverged", ["odd-\udcff.jpg"])

    monkeypatch.setattr(FineTuning, "run", diverges)
    with pytest.raises(DivergedError):
        train(image_sets.recipe(single_data), tmp_path)
    assert (tmp_path / "diverged.txt").read_bytes() == b"odd-\xff.jpg\n"


def test_weights_that_cannot_be_loaded_leave_no_folder(single_data: Path, tmp_path: Path) -> None:
    recipe = image_sets.recipe(single_data, weights=str(tmp_path / "missing.pth"))
    with pytest.raises(RecipeError, match="--weights .*missing.pth"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_training_starts_from_the_pretrained_weights(
    single_run: Run, single_data: Path, tmp_path: Path
) -> None:
    file = single_run.path / "network.safetensors"
    recipe = image_sets.recipe(single_data, weights=str(file), **ONE_EPOCH)
    made = run_folder.read(train(recipe, tmp_path))
    ours, theirs = made.network().resnet.state_dict(), single_run.network().resnet.state_dict()
    body = [name for name in ours if not name.startswith("fc.")]
    assert all(torch.equal(ours[name], theirs[name]) for name in body)
    provenance = made.outcome.provenance
    assert provenance.weights == "network.safetensors"
    assert provenance.weights_sha256 == sha256(file.read_bytes())


def test_a_run_keeps_the_dtype_that_it_trained_in(
    single_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is resumed on another machine must use the same dtype."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False})
    path = train(image_sets.recipe(single_data, dtype="auto", **ONE_EPOCH), tmp_path)
    assert run_folder.read(path).recipe.dtype == "float32"


def test_finding_the_learning_rate_leaves_the_network_unchanged(
    single_data: Path, tmp_path: Path
) -> None:
    """Otherwise the run would continue from where the sweep diverged. It equals the run that is
    given this learning rate, and starts with the weights of the seed."""
    recipe = image_sets.recipe(single_data, lr="auto", epochs=1)
    beginnings = list[Checkpoint | None]()

    def watched(path: Path, *arguments: Any) -> None:
        write(path, *arguments)
        if len(arguments) == 2:  # no optimizer yet
            beginnings.append(checkpoint.read(path))

    write = checkpoint.write
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "write", watched)
        found = run_folder.read(train(recipe, tmp_path / "auto"))
    assert float(found.recipe.lr) > 0
    given = train(recipe.model_copy(update={"lr": found.recipe.lr}), tmp_path / "given")
    for name in ("network.safetensors", "curves.csv", "recipe.json"):
        assert (found.path / name).read_bytes() == (given / name).read_bytes(), name
    start, _ = pretrained.start(recipe, 3)
    (first,) = beginnings
    assert first
    for name, value in start.resnet.state_dict().items():
        assert torch.equal(first.tensors[f"network.{name}"], value), name


def test_the_last_line_of_the_log_is_the_run_that_is_kept(
    single_run: Run, single_data: Path
) -> None:
    last = json.loads((single_run.path / "metrics.jsonl").read_text().splitlines()[-1])
    logits, targets = logits_of(single_run, single_data), targets_of(single_run)
    wrong = float((logits.argmax(1) != targets.argmax(1)).mean())
    assert last["error"] == pytest.approx(wrong, abs=2 / len(logits))
    log_scores = np.log(calibration.probabilities(logits, "single", 1.0))
    assert last["valid_loss"] == pytest.approx(-log_scores[targets].mean(), rel=0.05)


def unread(*arguments: Any) -> datasets.Dataset:
    raise AssertionError(f"read {arguments}")


def test_a_missing_device_is_refused_before_the_data_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(datasets, "read", unread)
    with pytest.raises(RecipeError, match="--device cuda"):
        train(image_sets.recipe(tmp_path, device="cuda"), tmp_path / "run")
