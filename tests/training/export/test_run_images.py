import builtins
import io
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.errors import DataError
from models.manifest import Preprocess
from training.data import decoding
from training.data.record import Record
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


@pytest.fixture
def of_two(single_run: Run, tmp_path: Path) -> Run:
    """A run of two DATA, as far as its files go: its blue images lie elsewhere."""
    first, second = tmp_path / "first", tmp_path / "far" / "second"
    shutil.copytree(single_run.outcome.root, first)
    second.mkdir(parents=True)
    (first / "blue").rename(second / "blue")

    def renamed(records: Sequence[Record]) -> tuple[Record, ...]:
        return tuple(
            replace(r, file=f"../far/second/{r.file}") if r.labels == ("blue",) else r
            for r in records
        )

    recipe = single_run.recipe.model_copy(update={"data": (str(first), str(second))})
    provenance = single_run.outcome.provenance.model_copy(update={"recipe": recipe.model_dump()})
    changed = {"root": str(first), "more_roots": ("../far/second",), "provenance": provenance}
    outcome = single_run.outcome.model_copy(update=changed)
    split = replace(
        single_run.split,
        train=renamed(single_run.split.train),
        valid=renamed(single_run.split.valid),
    )
    return replace(single_run, outcome=outcome, split=split)


def test_images_of_several_data_are_read_where_they_were(single_run: Run, of_two: Run) -> None:
    assert validation_images(of_two).files == validation_images(single_run).files


def test_each_of_several_data_may_have_been_moved(
    single_run: Run, of_two: Run, tmp_path: Path
) -> None:
    (tmp_path / "first").rename(tmp_path / "one")
    (tmp_path / "far" / "second").rename(tmp_path / "two")
    with pytest.raises(DataError, match="give its folder with --data"):
        validation_images(of_two)
    moved = [str(tmp_path / "one"), str(tmp_path / "two")]
    assert validation_images(of_two, moved).files == validation_images(single_run).files
    with pytest.raises(
        DataError,
        match=r"--data is given 1 time, and .* has images of .*/first and .*/far/second: give it"
        " once for each of them, in this order",
    ):
        validation_images(of_two, moved[:1])
