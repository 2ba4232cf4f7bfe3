"""TensorBoard's own reader, and MLflow's own store in a folder, are asked what they have."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from models import bundle
from models.bundle import Bundle
from testkit.servers import free_port
from training import run_folder
from training.__main__ import main
from training.fine_tuning import checkpoint
from training.run_folder import Run
from training.tracking import choice, trackers
from training.tracking.choice import Choice

QUICK = [
    *("--weights", "none", "--device", "cpu", "--image-size", "32", "--batch-size", "16"),
    *("--freeze-epochs", "1", "--epochs", "2", "--lr", "1e-2", "--dtype", "float32"),
]
STEPS = 3  # per epoch
ALL_SIZES = {"images": 0, "scalars": 0, "tensors": 0}  # 0: keep all


@pytest.fixture
def folder_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return f"file://{tmp_path / 'mlflow'}"


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ctrl-C when the second epoch is told to the trackers, but is in no checkpoint yet."""
    write, calls = checkpoint.write, 0

    def stopping(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:  # the first is of the start
            raise KeyboardInterrupt
        write(*arguments)

    monkeypatch.setattr(checkpoint, "write", stopping)
    yield
    assert calls > 3  # a resumed run went on


def trained(data: Path, out: Path, *options: str) -> Path:
    assert main(["train", str(data), *QUICK, *options, "--out", str(out)]) == 0
    return out


def board(run: Path) -> EventAccumulator:
    found = EventAccumulator(str(run / "tensorboard"), ALL_SIZES)
    return found.Reload()


def scalars(run: Path, name: str) -> list[tuple[int, Any]]:
    events = board(run).Scalars(name)
    return [(event.step, pytest.approx(event.value, rel=1e-5)) for event in events]


def test_tensorboard_has_the_curves_and_the_figures_of_the_run(
    single_data: Path, tmp_path: Path
) -> None:
    run = trained(single_data, tmp_path / "run", "--tensorboard")
    rows = list(csv.DictReader((run / "curves.csv").read_text().splitlines()))
    for column, name in (("rate", "learning_rate"), ("loss", "loss/step")):
        assert scalars(run, name) == [(int(row["step"]), float(row[column])) for row in rows]
    epochs = run_folder.read_epochs(run)
    for field, name in (("train_loss", "loss/train"), ("valid_loss", "loss/valid")):
        expected = [(STEPS * n, getattr(epoch, field)) for n, epoch in enumerate(epochs, 1)]
        assert scalars(run, name) == expected
    assert scalars(run, "valid/error") == [(STEPS * e.epoch, e.error) for e in epochs]
    measured = run_folder.read(run).outcome.metrics
    assert scalars(run, "final/error") == [(3 * STEPS, measured["error"].value)]


def test_tensorboard_has_the_worst_mistakes_and_where_the_network_looked(
    single_data: Path, tmp_path: Path
) -> None:
    run = trained(single_data, tmp_path / "run", "--tensorboard")
    found = board(run)
    images = found.Images("worst mistakes/1")
    assert images[0].step == STEPS
    pixels = np.asarray(Image.open(io.BytesIO(images[0].encoded_image_string)))
    assert pixels.shape == (32, 64, 3)
    (words, *_) = found.Tensors("worst mistakes/text_summary")
    text = words.tensor_proto.string_val[0].decode()
    file, _, explained = text.splitlines()[0].removeprefix("1. ").partition(": ")
    assert file in {record.file for record in run_folder.read(run).split.valid}
    assert explained.startswith("predicted ") and f"true {Path(file).parent.name} " in explained


def test_a_tracked_run_has_the_same_weights(
    single_data: Path, tmp_path: Path, folder_uri: str
) -> None:
    tracked = trained(single_data, tmp_path / "one", "--tensorboard", "--mlflow", folder_uri)
    plain = trained(single_data, tmp_path / "two")
    name = run_folder.WEIGHTS_FILE
    assert (tracked / name).read_bytes() == (plain / name).read_bytes()
    assert not (plain / "tensorboard").exists() and not (plain / "tracking.json").exists()


def client_of(uri: str) -> Any:
    from mlflow import MlflowClient  # late: it takes seconds

    return MlflowClient(uri)


def history(client: Any, run_id: str, name: str) -> list[tuple[int, float]]:
    found = client.get_metric_history(run_id, name)
    return sorted((metric.step, metric.value) for metric in found)


def test_mlflow_has_parameters_figures_with_intervals_and_files(
    single_data: Path, tmp_path: Path, folder_uri: str
) -> None:
    run = trained(single_data, tmp_path / "run", "--mlflow", folder_uri)
    client = client_of(folder_uri)
    run_id = choice.read(run).mlflow_run
    assert run_id is not None
    logged = client.get_run(run_id)
    recipe = run_folder.read_provenance(run).recipe
    assert logged.data.params == {name: str(value) for name, value in recipe.items()}
    assert (logged.info.run_name, logged.info.status) == ("run", "FINISHED")
    for epoch in run_folder.read_epochs(run):
        for name in ("train_loss", "valid_loss", "error", "images_per_s"):
            assert (epoch.epoch, getattr(epoch, name)) in history(client, run_id, name)
    for name, metric in run_folder.read(run).outcome.metrics.items():
        for suffix in ("value", "low", "high"):
            key = f"final.{name}" if suffix == "value" else f"final.{name}.{suffix}"
            assert logged.data.metrics[key] == getattr(metric, suffix)
    files = {found.path for found in client.list_artifacts(run_id)}
    assert {"report.html", "metrics.json", "predictions.csv", "metrics.jsonl"} <= files
    report = Path(client.download_artifacts(run_id, "report.html", str(tmp_path)))
    assert report.read_bytes() == (run / "report.html").read_bytes()


@pytest.mark.usefixtures("interrupted")
def test_a_resumed_run_continues_both_and_nothing_is_there_twice(
    single_data: Path, tmp_path: Path, folder_uri: str
) -> None:
    run = tmp_path / "run"
    options = ["--tensorboard", "--mlflow", folder_uri, "--out", str(run)]
    assert main(["train", str(single_data), *QUICK, *options]) == 130
    client = client_of(folder_uri)
    run_id = choice.read(run).mlflow_run
    assert run_id is not None and client.get_run(run_id).info.status == "KILLED"
    assert [step for step, _ in scalars(run, "loss/step")] == list(range(1, 2 * STEPS + 1))
    assert main(["train", "--resume", str(run)]) == 0
    assert choice.read(run).mlflow_run == run_id
    assert client.get_run(run_id).info.status == "FINISHED"
    assert [step for step, _ in history(client, run_id, "train_loss")] == [1, 2, 3]
    assert [step for step, _ in scalars(run, "loss/step")] == list(range(1, 3 * STEPS + 1))
    assert [step for step, _ in scalars(run, "loss/valid")] == [STEPS, 2 * STEPS, 3 * STEPS]


def test_a_server_that_is_away_costs_one_warning_and_is_told_by_the_export(
    single_data: Path,
    tmp_path: Path,
    folder_uri: str,
    single_bundle: Bundle,
    capfd: pytest.CaptureFixture[str],
) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    run = trained(single_data, tmp_path / "run", "--mlflow", away, "--quiet")
    found = capfd.readouterr()
    assert run_folder.read(run).outcome.metrics and f"wrote {run}" in found.out
    (warning,) = [line for line in found.err.splitlines() if "warning: " in line]
    assert "MLflow got nothing: " in warning and away.removeprefix("http://")[:9] in warning
    assert choice.read(run) == Choice(mlflow=away)
    choice.write(run, Choice(mlflow=folder_uri))  # it is back, elsewhere
    trackers.register(run, single_bundle.path)
    client = client_of(folder_uri)
    run_id = choice.read(run).mlflow_run
    assert run_id is not None and client.get_run(run_id).info.status == "FINISHED"
    assert [step for step, _ in history(client, run_id, "error")] == [1, 2, 3]


def test_a_bundle_is_registered_whole_as_a_version_of_its_name(
    single_run: Run,
    single_data: Path,
    single_bundle: Bundle,
    tmp_path: Path,
    folder_uri: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = trained(single_data, tmp_path / "run", "--mlflow", folder_uri)
    capsys.readouterr()
    for version in ("1", "2"):
        trackers.register(run, single_bundle.path)
        expected = f"registered in MLflow as version {version} of colours\n"
        assert capsys.readouterr().out == expected
    client = client_of(folder_uri)
    made = client.get_model_version("colours", "2")
    assert made.run_id == choice.read(run).mlflow_run
    assert made.tags == {"labrador.version": "1", "labrador.task": "single"}
    assert made.run_id and made.source
    place = made.source.removeprefix(f"runs:/{made.run_id}/")
    copy = Path(client.download_artifacts(made.run_id, place, str(tmp_path)))
    assert bundle.read(copy).files == single_bundle.files
    trackers.register(single_run.path, single_bundle.path)  # a run without MLflow
    assert capsys.readouterr().out == ""


def test_a_failing_tracker_is_warned_of_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing() -> None:
        raise OSError("the disk\nis full")

    found = trackers.Trackers(tmp_path)
    for name in ("TensorBoard", "TensorBoard", "MLflow"):
        found._try(name, failing)
    assert capsys.readouterr().err == "".join(
        f"warning: {name} got nothing: the disk is full; this goes on without it\n"
        for name in ("TensorBoard", "MLflow")
    )


def test_a_diverged_training_is_failed_in_mlflow(
    single_data: Path, tmp_path: Path, folder_uri: str
) -> None:
    run = tmp_path / "run"
    lost = ["--lr", "1e30", "--mlflow", folder_uri, "--out", str(run)]
    assert main(["train", str(single_data), *QUICK, *lost]) == 1
    run_id = choice.read(run).mlflow_run
    assert run_id is not None
    assert client_of(folder_uri).get_run(run_id).info.status == "FAILED"
