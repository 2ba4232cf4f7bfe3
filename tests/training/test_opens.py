"""From DATA to a released bundle an image is opened twice: to train, and to check its hash or, of
the training images that novelty is measured from, to see it as it is served.
"""

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from models import bundle
from models.outputs import Outputs
from models.store import Store
from testkit import image_sets, opens
from training import run_folder
from training.commands.evaluate import evaluate
from training.commands.train import resume, train
from training.data import contents, prepare
from training.data.contents import Contents
from training.data.perceptual_hash import SIDE_PX
from training.data.record import Record
from training.evaluation import novelty
from training.export import export, gate
from training.export.gate import Passed, Reference
from training.export.run_images import training_images
from training.fine_tuning.trainer import FineTuning
from training.recipe import Recipe
from training.release.release import release
from training.run_folder import Run

CPU = torch.device("cpu")
GOLDEN = 5  # images that the golden files are made of, which are decoded once more


@dataclass
class Heard:
    """What was opened and decoded; filled in at the end."""

    files: Sequence[Path]
    decodes: Counter[tuple[str, float]]


@contextmanager
def heard() -> Iterator[Heard]:
    with opens.opened() as files, opens.decoded() as decodes:
        yield Heard(files, decodes)


@dataclass(frozen=True)
class Walk:
    """A run, from DATA to its release in place of a model with another preprocessing."""

    data: Path
    run: Run
    training: Heard
    releasing: Heard

    def opens(self, heard: Heard, side: Sequence[Record]) -> list[int]:
        return [heard.files.count(self.data / record.file) for record in side]


def forms(heard: Heard, record: Record) -> dict[float, int]:
    """How often the image was decoded, by the least pixels of its shorter side."""
    return {size: n for (digest, size), n in heard.decodes.items() if digest == record.sha256}


def recipe_of(data: Path, **changes: object) -> Recipe:
    return image_sets.recipe(data, valid=0.5, freeze_epochs=1, epochs=0, **changes)


@pytest.fixture(scope="module")
def walk(single_data: Path, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Walk:
    folder = tmp_path_factory.mktemp("walk")
    own = Store(Path(shutil.copytree(store.root, folder / "store")))  # version 1 crops 0.9
    with heard() as training:
        train(recipe_of(single_data, crop_fraction=0.95), folder / "run")
    run = run_folder.read(folder / "run")
    kept = bundle.read(own.path("colours"))

    def passed(*arguments: Any) -> Passed:
        reference: Reference = arguments[-1]
        outputs = Outputs(reference.scores, reference.novelty)
        return Passed(kept.manifest.variants[0].gate, outputs)

    with pytest.MonkeyPatch.context() as patch, heard() as releasing:
        patch.setattr(export, "onnx_bytes", lambda *_: kept.model)  # takes seconds
        patch.setattr(gate, "check", passed)  # it is not the run's
        release(run, "colours", own, CPU, force=True)
    return Walk(single_data, run, training, releasing)


def test_training_opens_every_image_once_and_those_that_novelty_is_measured_from_again(
    walk: Walk,
) -> None:
    train, valid = walk.run.split.train, walk.run.split.valid
    assert len(train) == len(valid) == 24
    assert set(walk.opens(walk.training, valid)) == {1}
    assert set(walk.opens(walk.training, train)) == {2}


def test_novelty_is_measured_from_a_limited_number_of_images(
    single_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(novelty, "MOST", 9)
    with opens.opened() as files:
        train(recipe_of(single_data), tmp_path / "run")
    counts = Counter(files.count(file) for file in single_data.rglob("*.jpg"))
    assert counts == {1: 48 - 9, 2: 9}


def test_a_release_opens_every_validation_image_once_and_no_other(walk: Walk) -> None:
    assert set(walk.opens(walk.releasing, walk.run.split.valid)) == {1}
    assert set(walk.opens(walk.releasing, walk.run.split.train)) == {0}


def test_int8_opens_each_of_its_calibration_images_once(walk: Walk) -> None:
    with heard() as calibrating:
        assert len(training_images(walk.run, None, most=10)) == 10
    opens = walk.opens(calibrating, walk.run.split.train)
    assert sorted(opens) == [0] * 14 + [1] * 10
    assert set(calibrating.decodes.values()) == {1} and len(calibrating.decodes) == 10


def test_an_image_is_decoded_once_for_each_form_that_it_is_needed_in(walk: Walk) -> None:
    """To find copies; presized; as it is served, also for the older model."""
    presized, served, as_of_old = 40.0, 32 / 0.95, 32 / 0.9
    for record in walk.run.split.train:
        assert forms(walk.training, record) == {SIDE_PX: 1, presized: 1, served: 1}
        assert forms(walk.releasing, record) == {}
    ordered = sorted(walk.run.split.valid, key=lambda record: record.sha256)
    for record in walk.run.split.valid:
        assert forms(walk.training, record) == {SIDE_PX: 1, served: 1}
    for record in ordered[GOLDEN:]:
        assert forms(walk.releasing, record) == {served: 1, as_of_old: 1}
    for record in ordered[:GOLDEN]:
        assert forms(walk.releasing, record).keys() == {served, as_of_old, 384}


def test_without_room_in_memory_training_opens_an_image_a_second_time(
    single_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "free_memory", lambda: 0)
    with opens.opened() as files:
        train(recipe_of(single_data), tmp_path / "run")
    split = run_folder.read(tmp_path / "run").split
    assert {files.count(single_data / record.file) for record in split.valid} == {2}
    assert {files.count(single_data / record.file) for record in split.train} == {3}


def test_an_evaluation_opens_every_image_once(
    walk: Walk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training images too, to leave them out by their hash; the report opens none again."""
    with heard() as evaluating:
        evaluate(walk.run, str(walk.data), {}, "cpu", tmp_path / "out")
    for side in (walk.run.split.train, walk.run.split.valid):
        assert set(walk.opens(evaluating, side)) == {1}
    assert not any(forms(evaluating, record) for record in walk.run.split.train)
    assert all(forms(evaluating, record) == {32 / 0.95: 1} for record in walk.run.split.valid)


def test_a_resumed_run_opens_every_image_once(
    single_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(FineTuning, "step", stop)
        train(recipe_of(single_data), tmp_path / "run")
    with opens.opened() as files:
        resume(tmp_path / "run")
    split = run_folder.read(tmp_path / "run").split
    assert {files.count(single_data / record.file) for record in split.valid} == {1}
    assert {files.count(single_data / record.file) for record in split.train} == {2}


def test_no_bytes_of_files_are_kept_while_training_from_files(
    single_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There was no memory for the images either."""
    made = Contents()
    monkeypatch.setattr(prepare, "Contents", lambda: made)
    images, kept = list(single_data.rglob("*.jpg")), []
    step = FineTuning.step

    def watched(*arguments: Any) -> Any:
        with opens.opened() as files:
            for image in images:
                made.take(image)
        kept.append(len(images) - len(files))
        return step(*arguments)

    monkeypatch.setattr(FineTuning, "step", watched)
    train(recipe_of(single_data, cache="none", workers=0), tmp_path / "run")
    assert set(kept) == {0}
