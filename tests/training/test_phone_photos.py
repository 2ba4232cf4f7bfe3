"""Photos as phones save them, HEIC and AVIF, from DATA to golden images in other formats."""

import json
from pathlib import Path

import pytest
from PIL import Image

from models import golden
from models.preprocess import SERVED_FORMATS, image_format
from testkit import image_sets
from testkit.odd_images import encoded, heic
from training import run_folder
from training.commands.evaluate import evaluate
from training.commands.inspect import inspect
from training.commands.train import train
from training.export.run_images import training_images, validation_images


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Class folders without a single JPEG; one file has the wrong extension."""
    folder = image_sets.class_folders(tmp_path / "photos", 8)
    for number, file in enumerate(sorted(folder.rglob("*.jpg"))):
        image = Image.open(file)
        phone = heic(image, 6) if number % 2 else encoded(image, "AVIF", 6)
        file.with_suffix(".HEIC" if number % 2 else ".avif").write_bytes(phone)
        file.unlink()
    first = next(folder.rglob("*.HEIC"))
    first.rename(first.with_suffix(".jpg"))
    return folder


def test_photos_of_phones_are_trained_on_evaluated_and_exported(
    photos: Path, tmp_path: Path
) -> None:
    """What an export reads of them: the golden images, and those that int8 is made of."""
    recipe = image_sets.recipe(photos, epochs=1, valid=0.5, cache="memory", workers=0)
    inspect(recipe, tmp_path / "audit")
    found = json.loads((tmp_path / "audit" / "inspection.json").read_text())
    assert (found["formats"], found["quarantine"]) == ({"AVIF": 12, "HEIC": 12}, {})
    assert list(found["extensions_that_lie"].values()) == ["HEIC"]
    run = run_folder.read(train(recipe, tmp_path / "run"))
    assert len(run.split.records) == 24
    evaluate(run, str(photos), {}, "cpu", tmp_path / "evaluation")
    files = golden.forms(validation_images(run).files)
    assert {image_format(data) for data in files.values()} == set(SERVED_FORMATS)
    assert len(golden.inputs(files, run.outcome.preprocess)) == len(files)
    assert len(training_images(run, None, most=24)) == len(run.split.train)


def test_photos_of_phones_are_trained_on_from_their_files(photos: Path, tmp_path: Path) -> None:
    recipe = image_sets.recipe(photos, epochs=1, valid=0.5, cache="none", workers=0)
    assert len(run_folder.read(train(recipe, tmp_path / "run")).split.records) == 24
