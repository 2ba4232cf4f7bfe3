"""Image folders with `metadata.csv` or `metadata.jsonl`."""

import json
from pathlib import Path
from typing import Any

import pytest

from models.errors import DataError
from testkit.image_sets import put, write_csv
from training.data import datasets
from training.data.record import Record


def jsonl(file: Path, *rows: Any) -> Path:
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        datasets.read(str(path))
    return str(caught.value)


def test_a_csv_gives_one_label_with_its_spaces_and_other_columns_are_ignored(
    tmp_path: Path,
) -> None:
    put(tmp_path, "a.jpg", "deep/b.png", "c.jpg")
    rows = [["caption", "file_name", "label"], ["x", "a.jpg", "red fox"], ["", "deep/b.png", "3"]]
    file = write_csv(tmp_path / "metadata.csv", rows)
    for data in (tmp_path, file):
        found = datasets.read(str(data))
        assert found.records == (Record("a.jpg", ("red fox",)), Record("deep/b.png", ("3",)))
        assert (found.root, found.task, found.unused) == (tmp_path, "single", ("c.jpg",))


def test_several_labels_are_a_list_or_text_with_a_separator(tmp_path: Path) -> None:
    put(tmp_path, *(f"{name}.jpg" for name in "abcde"))
    jsonl(
        tmp_path / "metadata.jsonl",
        {"file_name": "a.jpg", "labels": ["red fox", "ant"]},
        {"file_name": "b.jpg", "labels": "red fox;ant"},
        {"file_name": "c.jpg", "labels": []},
        {"file_name": "d.jpg", "labels": None},
        {"file_name": "e.jpg", "labels": 4},
    )
    found = datasets.read(str(tmp_path), separator=";")
    both = ("ant", "red fox")
    assert [record.labels for record in found.records] == [both, both, (), (), ("4",)]
    assert found.task == "multi"


def test_folders_of_a_split_have_a_file_each(tmp_path: Path) -> None:
    put(tmp_path, "train/a.jpg", "validation/a.jpg", "test/a.jpg")
    jsonl(tmp_path / "train" / "metadata.jsonl", {"file_name": "a.jpg", "label": "cat"})
    rows = [["file_name", "label"], ["a.jpg", "dog"]]
    for side in ("validation", "test"):
        write_csv(tmp_path / side / "metadata.csv", rows)
    found = datasets.read(str(tmp_path))
    assert found.records == (
        Record("train/a.jpg", ("cat",), "train"),
        Record("validation/a.jpg", ("dog",), "valid"),
    )
    assert found.test == (Record("test/a.jpg", ("dog",), "test"),)
    assert found.unused == ()
    assert datasets.read(str(tmp_path / "test")).records == (Record("a.jpg", ("dog",)),)


def test_test_images_count_for_the_task_too(tmp_path: Path) -> None:
    """A single-label model's evaluation would know only one of their labels."""
    put(tmp_path, "train/a.jpg", "validation/a.jpg", "test/a.jpg")
    for side, labels in (("train", ["cat"]), ("validation", ["dog"]), ("test", ["cat", "dog"])):
        jsonl(tmp_path / side / "metadata.jsonl", {"file_name": "a.jpg", "labels": labels})
    assert datasets.read(str(tmp_path)).task == "multi"
    with pytest.raises(DataError, match="test/a.jpg has 2 labels; a single-label task needs"):
        datasets.read(str(tmp_path), task="single")


def test_one_file_for_all_folders_of_a_split(tmp_path: Path) -> None:
    put(tmp_path, "train/a.jpg", "test/b.jpg")
    rows = [["file_name", "label"], ["train/a.jpg", "cat"], ["test/b.jpg", "cat"]]
    write_csv(tmp_path / "metadata.csv", rows)
    assert [record.side for record in datasets.read(str(tmp_path)).records] == ["valid", "train"]


def test_class_folders_with_metadata_that_has_no_labels_stay_class_folders(tmp_path: Path) -> None:
    put(tmp_path, "cat/a.jpg", "dog/b.jpg")
    rows = [["file_name", "caption"], ["cat/a.jpg", "a cat"], ["dog/b.jpg", "a dog"]]
    write_csv(tmp_path / "metadata.csv", rows)
    found = datasets.read(str(tmp_path))
    assert found.labels == ("cat", "dog") and found.unused == ("metadata.csv",)


def test_faults_are_named_by_line(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "b.jpg")
    file = jsonl(
        tmp_path / "metadata.jsonl",
        {"file_name": "a.jpg", "label": "cat"},
        {"file_name": "a.jpg", "label": "cat"},
        {"file_name": "b.jpg", "label": ""},
        {"file_name": "b.jpg", "label": None},
        {"file_name": "b.jpg", "label": 1.5},
        {"file_name": "b.jpg", "label": ["cat"]},
        {"file_name": "b.jpg", "labels": [True]},
        {"file_name": "b.jpg", "label": "cat", "labels": ["cat"]},
        {"file_name": "b.jpg"},
        {"label": "cat"},
        ["b.jpg", "cat"],
        {"file_name": "https://example.com/b.jpg", "label": "cat"},
        {"file_name": "c.jpg", "label": "cat"},
        {"file_name": "", "label": "cat"},
    )
    complaints: list[str] = []
    found = datasets.read(str(tmp_path), complain=complaints.append)
    assert [record.file for record in found.records] == ["a.jpg"]
    expected = (
        "a.jpg is listed twice",
        "no label",
        "no label",
        "label=1.5: use text or a whole number",
        "label=['cat']: use text or a whole number",
        "labels=True: use text or a whole number",
        "it has label and labels: use label or labels",
        "it has neither: use label or labels",
        "it has no file_name",
        "it has no file_name",
        "is a URL",
        f"{tmp_path / 'c.jpg'} does not exist",
        "it has no file_name",
    )
    for number, (complaint, words) in enumerate(zip(complaints, expected, strict=True), 2):
        assert complaint.startswith(f"{file}, line {number}: ") and words in complaint


def test_a_url_in_a_folder_of_a_split_is_named_as_it_is(tmp_path: Path) -> None:
    put(tmp_path, "train/a.jpg")
    row = {"file_name": "https://example.com/b.jpg", "label": "cat"}
    jsonl(tmp_path / "train" / "metadata.jsonl", row)
    assert "line 1: https://example.com/b.jpg is a URL" in refused(tmp_path)


def test_a_line_that_is_not_json_is_named(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "b.jpg")
    row = '{"file_name": "%s.jpg", "label": "cat"}\n'
    file = tmp_path / "metadata.jsonl"
    file.write_text(f"{row % 'a'}\n{{not json\n{row % 'b'}")
    expected = f"{file}, line 3 is not JSON: "
    assert refused(tmp_path).startswith(expected)
    complaints: list[str] = []
    found = datasets.read(str(tmp_path), complain=complaints.append)
    assert [record.file for record in found.records] == ["a.jpg", "b.jpg"]
    assert len(complaints) == 1 and complaints[0].startswith(expected)


def test_files_that_are_neither_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    file.write_bytes(b'{"file_name": "\xff.jpg", "label": "cat"}\n')
    assert refused(file).startswith(f"{file} cannot be read as JSONL: ")
    (tmp_path / "metadata.csv").write_bytes(b"file_name,label\n\xff.jpg,cat\n")
    assert refused(tmp_path).startswith(f"{tmp_path / 'metadata.csv'} cannot be read as CSV: ")
