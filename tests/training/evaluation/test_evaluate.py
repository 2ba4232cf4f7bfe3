import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.bundle import Bundle, sha256
from models.errors import DataError
from models.manifest import Metric, Preprocess, Task
from models.outputs import Outputs
from models.preprocess import decode
from testkit import image_sets, tiny_models
from training.data import datasets
from training.data.datasets import Dataset
from training.evaluation import calibration, evaluate, metrics, scorer
from training.evaluation.evaluate import Evaluation
from training.evaluation.scorer import Scorer
from training.run_folder import Run

CPU = torch.device("cpu")


def rows_of(folder: Path) -> list[list[str]]:
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def scores_of(folder: Path) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
    return np.array([row[2:] for row in rows_of(folder)[1:]], np.float32)


def metrics_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return found


def measured(subject: Scorer, dataset: Dataset, folder: Path) -> Evaluation:
    """Evaluate, and write the files."""
    found = evaluate.evaluate(subject, dataset)
    evaluate.write(folder, found, found.measure())
    return found


def colour_model(
    labels: tuple[str, ...] = ("blue", "green", "red"),
    trained_on: frozenset[str] = frozenset(),
    thresholds: tuple[float, ...] | None = None,
) -> Scorer:
    """Scores how blue, green and red an image is, as far as it has these labels."""
    channel = {"blue": 2, "green": 1, "red": 0}

    def run(
        images: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]",
    ) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
        means = images.mean((1, 2)) / 255
        scores = np.stack([means[:, channel[label]] for label in labels], 1)
        return np.asarray(
            scores if thresholds else scores / scores.sum(1, keepdims=True), np.float32
        )

    preprocess = Preprocess(image_size_px=32, crop_fraction=1)
    task: Task = "multi" if thresholds else "single"
    return Scorer(
        "colours",
        task,
        labels,
        thresholds,
        1.0,
        preprocess,
        {"error": Metric(value=0.5, low=0.2, high=0.8)},
        trained_on,
        tiny_models.PROVENANCE,
        lambda images: Outputs(run(images)),
        None,
    )


def test_every_image_of_new_data_is_measured(tmp_path: Path) -> None:
    folder = image_sets.class_folders(tmp_path / "new", 4, seed=9)
    found = measured(colour_model(), datasets.read(str(folder)), tmp_path)
    assert len(found.records) == 12
    written = metrics_of(tmp_path)
    assert written["images"] == 12
    assert written["error"] == metrics.of_share(0, 12).model_dump()
    text = evaluate.table(found.measure())
    assert f"{written['nll']['value']:.4f}   [{written['nll']['low']:.4f}" in text


def test_a_difference_to_the_validation_images_comes_with_its_interval() -> None:
    """By hand: 0.04 √2 = 0.0566 below it, 0.03 √2 = 0.0424 above."""
    model = replace(colour_model(), metrics={"error": Metric(value=0.11, low=0.08, high=0.15)})

    def line(value: float, low: float, high: float) -> str | None:
        return evaluate.against_validation(
            model, {"error": Metric(value=value, low=low, high=high)}
        )

    assert line(0.52, 0.48, 0.55) == (
        "error was 0.1100 on the model's own validation images: a difference of +0.4100"
        " [+0.3534, +0.4524], more than chance explains"
    )
    assert "-0.0100 [-0.0666, +0.0324], chance alone" in str(line(0.10, 0.06, 0.13))
    assert line(0.11, 0.0, 0.3) is None


def test_eight_images_that_are_all_right_show_no_difference() -> None:
    model = replace(colour_model(), metrics={"error": metrics.of_share(0.02, 1000)})
    line = evaluate.against_validation(model, {"error": metrics.of_share(0, 8)})
    assert str(line).endswith("-0.0200 [-0.0307, +0.3045], chance alone can explain it")


def test_predictions_have_a_line_per_image_with_every_score_exactly(tmp_path: Path) -> None:
    folder = image_sets.class_folders(tmp_path / "new", 2, seed=9)
    measured(colour_model(), datasets.read(str(folder)), tmp_path)
    header, *rows = rows_of(tmp_path)
    assert header == ["path", "target", "blue", "green", "red"]
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.jpg"))
    assert [row[0] for row in rows] == files
    assert [row[1] for row in rows] == [file.split("/")[0] for file in files]
    images = np.stack([decode((folder / f).read_bytes(), colour_model().preprocess) for f in files])
    assert np.array_equal(scores_of(tmp_path), colour_model().run(images))


def test_the_metrics_are_those_of_the_predictions(tmp_path: Path) -> None:
    table = image_sets.table(tmp_path / "new", 20, seed=9)
    dataset = datasets.read(str(table))
    measured(colour_model(thresholds=(0.5, 0.45, 0.55)), dataset, tmp_path)
    scores = scores_of(tmp_path)
    targets = np.array([[n in e.labels for n in dataset.labels] for e in dataset.records])
    tags = scores >= np.array([0.5, 0.45, 0.55], np.float32)
    expected = metrics.values(metrics.multi_label(scores, targets, tags), 20)
    found = {name: m["value"] for name, m in metrics_of(tmp_path).items() if name in expected}
    assert found == pytest.approx(expected)
    assert [row[1] for row in rows_of(tmp_path)[1:]] == [
        " ".join(e.labels) for e in dataset.records
    ]


def test_images_the_model_was_trained_on_are_left_out_whatever_their_names(tmp_path: Path) -> None:
    folder = image_sets.class_folders(tmp_path / "new", 4, seed=9)
    seen = [folder / "red" / "001.jpg", folder / "blue" / "003.jpg"]
    trained_on = frozenset(sha256(file.read_bytes()) for file in seen)
    seen[0].rename(folder / "red" / "renamed.jpg")
    measured(colour_model(trained_on=trained_on), datasets.read(str(folder)), tmp_path)
    paths = [row[0] for row in rows_of(tmp_path)[1:]]
    assert len(paths) == 10
    assert not {"red/renamed.jpg", "blue/003.jpg"} & set(paths)


def test_training_images_alone_are_refused(tmp_path: Path) -> None:
    folder = image_sets.class_folders(tmp_path / "new", 2, seed=9)
    trained_on = frozenset(sha256(file.read_bytes()) for file in folder.rglob("*.jpg"))
    with pytest.raises(DataError, match="trained on all of 6 images: nothing to measure"):
        measured(colour_model(trained_on=trained_on), datasets.read(str(folder)), tmp_path)
    assert not (tmp_path / "metrics.json").exists()


def test_a_label_the_model_does_not_have_is_refused_with_those_it_has(tmp_path: Path) -> None:
    folder = image_sets.class_folders(tmp_path / "new", 2, seed=9)
    two = colour_model(labels=("green", "red"))
    with pytest.raises(DataError, match="no label 'blue'; valid: green, red"):
        measured(two, datasets.read(str(folder)), tmp_path)


def test_data_may_have_fewer_labels_than_the_model(tmp_path: Path) -> None:
    folder = image_sets.class_folders(tmp_path / "new", 4, seed=9)
    for file in (folder / "green").iterdir():
        file.unlink()
    measured(colour_model(), datasets.read(str(folder)), tmp_path)
    assert rows_of(tmp_path)[0] == ["path", "target", "blue", "green", "red"]
    assert metrics_of(tmp_path)["macro_f1"]["value"] == 1


def test_data_without_any_label_is_refused(tmp_path: Path) -> None:
    image_sets.put(tmp_path, "a.jpg", "b.jpg")
    table = image_sets.write_csv(
        tmp_path / "l.csv", [["fname", "labels"], ["a.jpg", ""], ["b.jpg", ""]]
    )
    with pytest.raises(DataError, match="2 images without a single label"):
        measured(colour_model(thresholds=(0.5, 0.5, 0.5)), datasets.read(str(table)), tmp_path)


@pytest.mark.parametrize("task", ["single", "multi"])
def test_a_run_and_its_bundle_give_the_same_metrics(
    task: Task, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run: Run = request.getfixturevalue(f"{task}_run")
    bundle: Bundle = request.getfixturevalue(f"{task}_bundle")
    dataset = datasets.read(run.outcome.provenance.recipe["data"], task=task)
    for name, model in (("run", run), ("bundle", bundle.path)):
        (tmp_path / name).mkdir()
        measured(scorer.load(model, CPU), dataset, tmp_path / name)
    ours, theirs = metrics_of(tmp_path / "run"), metrics_of(tmp_path / "bundle")
    validation = [record.file for record in run.split.valid]
    assert ours["images"] == theirs["images"] == len(validation)
    for name in ours.keys() - {"images", "labels"}:
        assert ours[name] == pytest.approx(theirs[name], abs=1e-3), name
    assert [row[:2] for row in rows_of(tmp_path / "run")] == [
        row[:2] for row in rows_of(tmp_path / "bundle")
    ]
    assert [row[0] for row in rows_of(tmp_path / "run")[1:]] == validation
    np.testing.assert_allclose(
        scores_of(tmp_path / "run"), scores_of(tmp_path / "bundle"), atol=1e-5
    )


def test_the_metrics_of_each_label_are_written(tmp_path: Path) -> None:
    folder = image_sets.class_folders(tmp_path / "new", 4, seed=9)
    measured(colour_model(), datasets.read(str(folder)), tmp_path)
    labels = metrics_of(tmp_path)["labels"]
    assert [one["label"] for one in labels] == ["blue", "green", "red"]
    assert all((one["images"], one["precision"], one["recall"]) == (4, 1, 1) for one in labels)


def test_the_calibration_error_is_given_before_and_after(tmp_path: Path) -> None:
    """An underconfident model: its temperature is 3."""
    folder = image_sets.class_folders(tmp_path / "new", 4, seed=9)
    found = evaluate.evaluate(replace(colour_model(), temperature=3.0), datasets.read(str(folder)))
    np.testing.assert_allclose(
        calibration.probabilities(np.log(found.scores), "single", 1 / 3),
        found.uncalibrated,
        atol=1e-6,
    )
    measures = found.measure()
    before, after = (
        measures[f"rms_calibration_error{name}"].value for name in ("_uncalibrated", "")
    )
    assert before < after - 0.1
