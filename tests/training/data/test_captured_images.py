from pathlib import Path

import pytest

from models.errors import DataError
from testkit.captures import capture
from testkit.image_sets import put, write_csv
from training.data import datasets
from training.data.datasets import Dataset

CAT, DOG = {"cat": 0.75, "dog": 0.25}, {"dog": 0.5, "cat": 0.375, "emu": 0.125}


def read(*data: Path, **options: str) -> Dataset:
    return datasets.read(list(map(str, data)), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("data", ["captured", "captured/pets"])
def test_captured_images_are_labelled_as_the_model_guessed(tmp_path: Path, data: str) -> None:
    files = capture(tmp_path / "captured", CAT, DOG)
    found = read(tmp_path / data)
    assert {r.file: r.labels for r in found.records} == {files[0]: ("cat",), files[1]: ("dog",)}
    assert {r.file: dict(r.guess) for r in found.records} == {files[0]: CAT, files[1]: DOG}
    assert (found.root, found.task, found.unused) == (tmp_path / "captured/pets", "single", ())
    (note,) = found.notes
    assert note.startswith("2 captured images with the labels that the model guessed")


def test_the_task_is_the_model_s_whatever_its_answers(tmp_path: Path) -> None:
    capture(tmp_path, CAT, DOG, task="multi", labels=[("cat",), ("dog",)])
    assert read(tmp_path).task == "multi"
    photos = put(tmp_path / "photos", "cat/0.jpg", "dog/1.jpg")
    with pytest.raises(DataError, match="photos is single-label and .*pets is multi-label"):
        read(photos, tmp_path / "pets")


def test_an_answer_without_its_image_is_none(tmp_path: Path) -> None:
    files = capture(tmp_path, CAT, DOG)
    (tmp_path / "pets" / files[0]).unlink()
    assert [record.file for record in read(tmp_path).records] == files[1:]


def test_an_answer_that_is_not_one_is_named(tmp_path: Path) -> None:
    files = capture(tmp_path, CAT, DOG)
    broken = (tmp_path / "pets" / files[0]).with_suffix(".json")
    broken.write_text("{")
    with pytest.raises(
        DataError, match=f"^{broken} is not an answer of the service: the text: Invalid JSON"
    ):
        read(tmp_path)


def test_those_of_several_models_are_asked_for_one_by_one(tmp_path: Path) -> None:
    capture(tmp_path, CAT)
    capture(tmp_path, DOG, model="tags")
    with pytest.raises(DataError, match=f"give one of {tmp_path / 'pets'}, {tmp_path / 'tags'}"):
        read(tmp_path)


def test_class_folders_beside_captured_images_are_class_folders(tmp_path: Path) -> None:
    capture(tmp_path, CAT)
    put(tmp_path, "dog/0.jpg")
    assert {record.labels for record in read(tmp_path).records} == {("dog",), ("pets",)}


def test_a_pattern_is_for_the_other_data(tmp_path: Path) -> None:
    capture(tmp_path / "captured", DOG)
    photos = put(tmp_path / "photos", "cat_1.jpg", "dog_2.jpg")
    found = read(photos, tmp_path / "captured", pattern=r"(.+)_\d")
    assert sorted(record.labels for record in found.records) == [("cat",), ("dog",), ("dog",)]


def test_a_correction_may_give_a_label_that_is_named_as_new(tmp_path: Path) -> None:
    files = capture(tmp_path, CAT, DOG)
    rows = [["file", "given", "suggested"], [files[0], "cat", "arctic fox"]]
    fixes = str(write_csv(tmp_path / "fixes.csv", rows))
    with pytest.raises(DataError, match="unknown label 'arctic fox'; .* named with --new-labels"):
        read(tmp_path / "pets", correct=fixes)
    found = read(tmp_path / "pets", correct=fixes, new_labels="emu, arctic fox")
    assert found.labels == ("arctic fox", "dog")
    assert found.notes == (f"1 image with other labels, as listed in {fixes}",)
