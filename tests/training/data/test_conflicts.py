import pytest

from models.errors import DataError
from training.data import conflicts
from training.data.record import Record


def record(file: str, content: str, source: int, *labels: str) -> Record:
    return Record(file, labels, sha256=content, source=source)


RECORDS = [
    record("../b/1.jpg", "one", 1, "dog"),  # sorted by file, as a data set is
    record("../b/2.jpg", "two", 1, "cat"),
    record("../c/1.jpg", "one", 2),
    record("a.jpg", "one", 0, "cat"),
    record("a2.jpg", "two", 0, "cat"),
    record("a3.jpg", "two", 0, "dog"),  # within one DATA: a finding of inspect
]


def test_of_the_same_bytes_with_other_labels_the_later_data_s_are_named() -> None:
    assert conflicts.find(RECORDS) == {
        "../b/1.jpg": "conflict: the same bytes as a.jpg, which is labelled cat, not dog",
        "../c/1.jpg": "conflict: the same bytes as a.jpg, which is labelled cat, not nothing",
    }


def test_they_are_refused_with_what_helps() -> None:
    conflicts.refuse(RECORDS[1:2] + RECORDS[3:], "a b")
    with pytest.raises(
        DataError,
        match=r"^2 images of several DATA with different labels: \.\./b/1\.jpg: the same bytes as"
        r" a\.jpg, which is labelled cat, not dog; .*--correct.* inspect a b --out AUDIT",
    ):
        conflicts.refuse(RECORDS, "a b")


def test_files_that_were_not_read_are_no_conflict() -> None:
    unread = [record("a.jpg", "", 0, "cat"), record("b.jpg", "", 1, "dog")]
    assert conflicts.find(unread) == {}
