import builtins
import io
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.errors import DataError
from models.manifest import Preprocess
from training.data import decoding
from training.export.run_images import training_images, validation_images
from training.run_folder import Run

CLOSER = Preprocess(image_size_px=24, crop_fraction=0.5)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file was opened."""
    count: Counter[str] = Counter()
    original = io.open

    def counted(file: Any, *arguments: Any, **options: Any) -> Any:
        count[str(file)] += 1
        return original(file, *arguments, **options)

    monkeypatch.setattr(io, "open", counted)
    monkeypatch.setattr(builtins, "open", counted)
    return count


def test_validation_images_are_sorted_by_hash_in_each_preprocessing(run: Run) -> None:
    found = validation_images(run, None, [CLOSER])
    assert list(found.records) == sorted(run.split.valid, key=lambda record: record.sha256)
    files = [Path(run.outcome.root) / record.file for record in found.records]
    assert list(found.images) == [run.outcome.preprocess, CLOSER]
    for preprocess, images in found.images.items():
        assert np.array_equal(images, decoding.served(files, preprocess))
    assert list(found.files) == [file.read_bytes() for file in files[:5]]


def test_each_file_is_opened_only_once(single_run: Run, opened: Counter[str]) -> None:
    found = validation_images(single_run, None, [CLOSER])
    root = Path(single_run.outcome.root)
    images = {file: count for file, count in opened.items() if file.startswith(str(root))}
    assert images == {str(root / record.file): 1 for record in found.records}


def test_training_images_are_the_first_by_hash(single_run: Run) -> None:
    first = sorted(single_run.split.train, key=lambda record: record.sha256)
    files = [Path(single_run.outcome.root) / record.file for record in first]
    expected = decoding.served(files, single_run.outcome.preprocess)
    assert np.array_equal(training_images(single_run, None, most=5), expected[:5])
    assert np.array_equal(training_images(single_run, None, most=99), expected)


def test_all_images_that_changed_are_counted(single_run: Run) -> None:
    changed = tuple(replace(record, sha256="0" * 64) for record in single_run.split.valid[:2])
    sides = replace(single_run.split, valid=changed + single_run.split.valid[2:])
    with pytest.raises(
        DataError, match="^2 images cannot be used: .*; give its folder with --data$"
    ):
        validation_images(replace(single_run, split=sides))
