import csv
from pathlib import Path

import pytest

from models.errors import DataError
from models.manifest import Task
from testkit.image_sets import put, write_csv
from training.data import corrections, datasets, quarantine
from training.data.corrections import Correction
from training.data.record import Record

RECORDS = [Record("a.jpg", ("cat",)), Record("b.jpg", ("dog",)), Record("c.jpg", ("fox",))]
TAGS = [Record("a.jpg", ("cat", "dog")), Record("b.jpg", ()), Record("c.jpg", ("fox",))]


def corrected(
    folder: Path, rows: list[list[str]], records: list[Record], task: Task, left_out: str = ""
) -> dict[str, tuple[str, ...]]:
    file = write_csv(folder / "list.csv", [["file", "given", "suggested", "sure"], *rows])
    found = corrections.correct(records, file, task, left_out.split())
    assert [record.file for record in found] == [record.file for record in records]
    return {record.file: record.labels for record in found}


def test_the_suggested_label_takes_the_place_of_the_given_one(tmp_path: Path) -> None:
    rows = [["a.jpg", "cat", "fox", "0.9"], ["c.jpg", "fox", "cat", "0.8"]]
    expected = {"a.jpg": ("fox",), "b.jpg": ("dog",), "c.jpg": ("cat",)}
    assert corrected(tmp_path, rows, RECORDS, "single") == expected


def test_a_tag_is_added_or_taken_away(tmp_path: Path) -> None:
    rows = [
        ["a.jpg", "cat", "", "1"],
        ["a.jpg", "", "fox", "1"],
        ["b.jpg", "", "dog", "1"],
        ["c.jpg", "fox", "", "1"],
    ]
    expected = {"a.jpg": ("dog", "fox"), "b.jpg": ("dog",), "c.jpg": ()}
    assert corrected(tmp_path, rows, TAGS, "multi") == expected


def test_the_last_column_may_be_missing(tmp_path: Path) -> None:
    rows = [["file", "given", "suggested"], ["a.jpg", "cat", "dog"]]
    file = write_csv(tmp_path / "mine.csv", rows)
    assert corrections.correct(RECORDS, file, "single")[0].labels == ("dog",)


def test_a_line_about_an_image_that_is_left_out_has_no_effect(tmp_path: Path) -> None:
    rows = [["gone.jpg", "cat", "dog", "1"], ["b.jpg", "dog", "cat", "1"]]
    assert corrected(tmp_path, rows, RECORDS, "single", "gone.jpg")["b.jpg"] == ("cat",)


@pytest.mark.parametrize(
    ("row", "task", "message"),
    [
        (["gone.jpg", "cat", "dog", "1"], "single", "gone.jpg is not an image of DATA"),
        (["a.jpg", "dog", "fox", "1"], "single", "a.jpg has the labels cat, not 'dog'"),
        (["a.jpg", "", "fox", "1"], "single", "needs both given and suggested"),
        (["a.jpg", "cat", "", "1"], "single", "needs both given and suggested"),
        (["a.jpg", "cat", "dgo", "1"], "single", r"unknown label 'dgo'; valid: dog, cat, fox"),
        (["b.jpg", "cat", "", "1"], "multi", "b.jpg has the labels none, not 'cat'"),
        (["a.jpg", "", "dog", "1"], "multi", "a.jpg already has the label 'dog'"),
        (["a.jpg", "", "", "1"], "multi", "neither given nor suggested"),
    ],
)
def test_a_line_that_does_not_fit_is_refused(
    tmp_path: Path, row: list[str], task: Task, message: str
) -> None:
    records = RECORDS if task == "single" else TAGS
    with pytest.raises(DataError, match=rf"list.csv, line 2: .*{message}"):
        corrected(tmp_path, [row], records, task)


def test_the_same_change_twice_is_refused(tmp_path: Path) -> None:
    rows = [["a.jpg", "cat", "dog", "1"]] * 2
    with pytest.raises(DataError, match="line 3: a.jpg has the labels dog, not 'cat'"):
        corrected(tmp_path, rows, RECORDS, "single")


def test_what_is_written_can_be_read_whatever_the_names(tmp_path: Path) -> None:
    name = b'odd, "\xff".jpg'.decode(errors="surrogateescape")
    corrections.write(tmp_path / "s.csv", [Correction(name, "red fox", "a,b", 0.98765)])
    with (tmp_path / "s.csv").open(newline="", errors="surrogateescape") as text:
        assert list(csv.reader(text))[1] == [name, "red fox", "a,b", "0.9877"]
    records = [Record(name, ("red fox",)), Record("z.jpg", ("a,b",))]
    found = corrections.correct(records, tmp_path / "s.csv", "single")
    assert found[0].labels == ("a,b",)


def test_a_list_of_suspects_is_a_quarantine_list_too(tmp_path: Path) -> None:
    listed = [Correction("a.jpg", "cat", "", 0.9), Correction("a.jpg", "", "dog", 0.8)]
    corrections.write(tmp_path / "suspects.csv", listed)
    assert quarantine.read(tmp_path / "suspects.csv") == {"a.jpg": "its label is suspect"}
    by_hand = write_csv(tmp_path / "mine.csv", [["file", "given", "suggested"], ["a.jpg", "", "b"]])
    assert quarantine.read(by_hand) == {"a.jpg": "its label is suspect"}


def test_data_is_read_with_the_new_labels(tmp_path: Path) -> None:
    put(tmp_path / "data", "cat/0.jpg", "cat/1.jpg", "dog/2.jpg", "dog/3.jpg", "fox/4.jpg")
    names = write_csv(tmp_path / "names.csv", [["from", "to"], ["fox", "wolf"]])
    rows = [
        ["file", "given", "suggested", "sure"],
        ["cat/0.jpg", "cat", "wolf", "1"],
        ["fox/4.jpg", "wolf", "dog", "1"],
        ["cat/1.jpg", "cat", "dog", "1"],
        ["dog/2.jpg", "dog", "cat", "1"],
    ]
    listed = str(write_csv(tmp_path / "data" / "fixes.csv", rows))
    left_out = str(write_csv(tmp_path / "q.csv", [["file", "reason"], ["dog/2.jpg", "blurred"]]))
    found = datasets.read(
        str(tmp_path / "data"), relabel=str(names), quarantine=left_out, correct=listed
    )
    assert {r.file: r.labels[0] for r in found.records} == {
        "cat/0.jpg": "wolf",
        "cat/1.jpg": "dog",
        "dog/3.jpg": "dog",
        "fox/4.jpg": "dog",
    }
    assert (found.labels, found.task, found.unused) == (("dog", "wolf"), "single", ())
    assert found.notes[-1] == f"3 images with other labels, as listed in {listed}"


def test_a_correction_does_not_change_the_task(tmp_path: Path) -> None:
    put(tmp_path / "data", "cat/0.jpg", "dog/1.jpg")
    rows = [["file", "given", "suggested", "sure"], ["cat/0.jpg", "", "dog", "1"]]
    listed = str(write_csv(tmp_path / "fixes.csv", rows))
    with pytest.raises(DataError, match="needs both given and suggested"):
        datasets.read(str(tmp_path / "data"), correct=listed)
    found = datasets.read(str(tmp_path / "data"), task="multi", correct=listed)
    assert found.records[0].labels == ("cat", "dog")
