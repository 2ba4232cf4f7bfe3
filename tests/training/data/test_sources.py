"""DATA given several times: one data set, whose names lead to the files of each."""

import os
from pathlib import Path

import pytest

from models.errors import DataError, RecipeError
from testkit.image_sets import put, write_csv
from training.data import datasets
from training.data.datasets import Dataset


def photos(folder: Path) -> Path:
    return put(folder / "photos", "cat/0.jpg", "cat/1.jpg", "dog/2.jpg")


def more(folder: Path, *files: str) -> Path:
    return put(folder / "far" / "more", *(files or ("dog/7.jpg", "fox/8.jpg")))


def read(*data: Path, **options: str) -> Dataset:
    return datasets.read(list(map(str, data)), **options)  # type: ignore[arg-type]


def labelled(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    return {record.file: record.labels for record in dataset.records}


def test_labels_are_merged_and_each_name_leads_to_its_file(tmp_path: Path) -> None:
    first, second = photos(tmp_path), more(tmp_path)
    found = read(first, second)
    assert found.labels == ("cat", "dog", "fox")
    assert labelled(found) == {
        "../far/more/dog/7.jpg": ("dog",),
        "../far/more/fox/8.jpg": ("fox",),
        "cat/0.jpg": ("cat",),
        "cat/1.jpg": ("cat",),
        "dog/2.jpg": ("dog",),
    }
    assert all((found.root / file).is_file() for file in labelled(found))
    assert {r.file: r.source for r in found.records}["../far/more/fox/8.jpg"] == 1
    assert (found.root, found.more_roots) == (first, ("../far/more",))


def test_options_of_tables_are_refused_where_all_data_are_class_folders(tmp_path: Path) -> None:
    first, second = photos(tmp_path), more(tmp_path)
    for option in ("separator", "images"):
        with pytest.raises(RecipeError, match=f"--{option} is for tables and lists: .* is class f"):
            read(first, second, **{option: "x"})
    table = write_csv(second / "l.csv", [["fname", "labels"], ["fox/8.jpg", "a fox"]])
    assert read(first, table, separator=";").labels == ("a fox", "cat", "dog")


def test_the_first_alone_is_named_as_ever(tmp_path: Path) -> None:
    first = photos(tmp_path)
    assert read(first) == datasets.read(str(first))
    assert read(first).more_roots == ()


def test_a_way_through_a_link_leads_to_the_files(tmp_path: Path) -> None:
    first, second = photos(tmp_path / "disk" / "deep"), more(tmp_path)
    (tmp_path / "link").symlink_to(first)
    found = read(tmp_path / "link", second)
    assert all((found.root / file).is_file() for file in labelled(found))


def test_tables_of_one_folder_and_the_same_names_in_two_folders_are_kept_apart(
    tmp_path: Path,
) -> None:
    put(tmp_path, "images/a.jpg", "images/b.jpg", "images/c.jpg")
    old = write_csv(tmp_path / "old.csv", [["fname", "labels"], ["a.jpg", "cat"]])
    new = write_csv(tmp_path / "new.csv", [["fname", "labels"], ["b.jpg", "dog"], ["c.jpg", "cat"]])
    found = read(old, new)
    assert labelled(found) == {"a.jpg": ("cat",), "b.jpg": ("dog",), "c.jpg": ("cat",)}
    one, two = put(tmp_path / "one", "cat/1.jpg"), put(tmp_path / "two", "cat/1.jpg", "dog/2.jpg")
    assert list(labelled(read(one, two))) == ["../two/cat/1.jpg", "../two/dog/2.jpg", "cat/1.jpg"]


def test_a_file_that_two_have_is_refused(tmp_path: Path) -> None:
    first = photos(tmp_path)
    table = write_csv(first / "labels.csv", [["fname", "labels"], ["cat/0.jpg", "cat"]])
    with pytest.raises(DataError, match=f"{first} and {table} both have the image .*cat/0.jpg"):
        read(first, table)


def test_files_that_are_not_used_are_named_in_each(tmp_path: Path) -> None:
    first, second = photos(tmp_path), more(tmp_path)
    (first / "notes.txt").write_text("")
    (second / "stray.jpg").write_bytes(b"")
    found = read(first, second)
    assert sorted(found.unused) == ["../far/more/stray.jpg", "notes.txt"]
    assert found.strays == ("../far/more/stray.jpg",)


def test_a_list_may_name_a_file_as_its_own_data_does(tmp_path: Path) -> None:
    first, second = photos(tmp_path), more(tmp_path)
    lines = [["file", "reason"], ["fox/8.jpg", "blurred"], ["cat/0.jpg", "dark"]]
    listed = write_csv(tmp_path / "quarantine.csv", lines)
    found = read(first, second, quarantine=str(listed))
    assert list(labelled(found)) == ["../far/more/dog/7.jpg", "cat/1.jpg", "dog/2.jpg"]
    fixes = [
        ["file", "given", "suggested"],
        ["fox/8.jpg", "fox", "cat"],
        ["dog/2.jpg", "dog", "cat"],
    ]
    corrected = read(first, second, correct=str(write_csv(tmp_path / "fixes.csv", fixes)))
    assert labelled(corrected)["../far/more/fox/8.jpg"] == ("cat",)
    assert labelled(corrected)["dog/2.jpg"] == ("cat",)
    lines[1][0] = "../far/more/fox/8.jpg"
    again = read(first, second, quarantine=str(write_csv(listed, lines)))
    assert again.records == found.records


def test_where_names_are_not_distinct_a_list_means_the_first(tmp_path: Path) -> None:
    first, second = photos(tmp_path), more(tmp_path, "cat/0.jpg", "fox/8.jpg")
    listed = write_csv(tmp_path / "q.csv", [["file", "reason"], ["cat/0.jpg", "dark"]])
    found = read(first, second, quarantine=str(listed))
    assert "../far/more/cat/0.jpg" in labelled(found)
    assert "cat/0.jpg" not in labelled(found)
    write_csv(listed, [["file", "reason"], ["fox/8.jpg", "dark"]])
    with pytest.raises(DataError, match=f"lists fox/8.jpg, not in {first} and {second}"):
        read(first, second, quarantine=str(listed))


def test_the_tasks_must_agree(tmp_path: Path) -> None:
    first = photos(tmp_path)
    put(tmp_path, "images/a.jpg", "images/b.jpg")
    rows = [["fname", "labels"], ["a.jpg", "cat dog"], ["b.jpg", "cat"]]
    tags = write_csv(tmp_path / "tags.csv", rows)
    with pytest.raises(
        DataError, match=f"^{first} is single-label and {tags} is multi-label: give --task multi"
    ):
        read(first, tags)
    assert read(first, tags, task="multi").task == "multi"
    assert read(tags, first).task == "multi"  # one label each is no objection to tags


def test_each_fault_is_collected(tmp_path: Path) -> None:
    first = photos(tmp_path)
    table = write_csv(first / "labels.csv", [["fname", "labels"], ["cat/0.jpg", "cat dog"]])
    complaints: list[str] = []
    found = datasets.read([str(first), str(table)], complain=complaints.append)
    assert len(complaints) == 1
    assert len(found.records) == 3
    assert os.fspath(found.root) == str(first)
