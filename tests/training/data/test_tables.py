"""Lists of files; CSVs are tested with `datasets`."""

from pathlib import Path

import pytest

from models.errors import DataError
from testkit.image_sets import put
from training.data import datasets
from training.data.record import Record


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        datasets.read(str(path))
    return str(caught.value)


def test_the_label_of_a_listed_image_is_its_folder_or_what_follows_it(tmp_path: Path) -> None:
    put(tmp_path, "cat/a b.jpg", "red fox/c.jpg", "d.jpg", "cat/e f.jpg", "cat/g.jpg")
    file = tmp_path / "list.txt"
    file.write_text(
        "# a comment\n\ncat/a b.jpg\r\nred fox/c.jpg\nd.jpg 7\ncat/e f.jpg tom\n"
        "cat/g.jpg\tgrey cat\n"
    )
    found = datasets.read(str(file))
    assert found.records == (
        Record("cat/a b.jpg", ("cat",)),
        Record("cat/e f.jpg", ("tom",)),
        Record("cat/g.jpg", ("grey cat",)),
        Record("d.jpg", ("7",)),
        Record("red fox/c.jpg", ("red fox",)),
    )
    assert (found.root, found.task, found.unused) == (tmp_path, "single", ())


@pytest.mark.parametrize("images", [".", "images", "..", "../images"])
def test_listed_images_are_found_next_to_the_lists_or_in_the_folder_above(
    tmp_path: Path, images: str
) -> None:
    """As in Food-101 and DTD, whose lists are in a folder of their own and lack the suffix."""
    meta = tmp_path / "meta"
    meta.mkdir()
    put(meta / images, "pie/1.jpg", "pie/2.jpg", "tea/3.jpg")
    (meta / "train.txt").write_text("pie/0\npie/1\n")
    (meta / "test.txt").write_text("tea/3\npie/2\n")
    complaints: list[str] = []
    found = datasets.read(str(meta), complain=complaints.append)
    assert found.root.resolve() == (meta / images).resolve()
    assert found.records == (
        Record("pie/1.jpg", ("pie",), "train"),
        Record("pie/2.jpg", ("pie",), "valid"),
        Record("tea/3.jpg", ("tea",), "valid"),
    )
    assert complaints == [f"{meta / 'train.txt'}, line 1: {found.root / 'pie/0'} does not exist"]
    assert datasets.read(str(meta / "test.txt")).labels == ("pie", "tea")


def test_the_images_of_lists_can_lie_elsewhere(tmp_path: Path) -> None:
    put(tmp_path / "far", "cat/1.jpg")
    put(tmp_path / "near", "cat/1.jpg")
    (tmp_path / "near" / "list.txt").write_text("cat/1.jpg\n")
    found = datasets.read(str(tmp_path / "near" / "list.txt"), images=str(tmp_path / "far"))
    assert found.root == tmp_path / "far"


def test_lists_win_over_class_folders_and_what_they_leave_out_is_counted(tmp_path: Path) -> None:
    put(tmp_path, "cat/1.jpg", "cat/2.jpg", "dog/3.jpg", "dog/4.jpg", "elsewhere/5.jpg")
    for name, line in (("train", "cat/1.jpg"), ("val", "dog/3.jpg"), ("test", "dog/4.jpg")):
        (tmp_path / f"{name}.txt").write_text(line)
    found = datasets.read(str(tmp_path))
    assert [(record.file, record.side) for record in found.records] == [
        ("cat/1.jpg", "train"),
        ("dog/3.jpg", "valid"),
    ]
    assert found.test == (Record("dog/4.jpg", ("dog",), "test"),)
    assert found.unused == ("cat/2.jpg",)  # a list's folder may hold anything else


def test_a_list_alone_beside_class_folders_is_a_file_that_is_not_used(tmp_path: Path) -> None:
    put(tmp_path, "cat/1.jpg", "dog/2.jpg")
    (tmp_path / "train.txt").write_text("cat/1.jpg\n")
    found = datasets.read(str(tmp_path))
    assert len(found.records) == 2 and found.unused == ("train.txt",)


def test_faults_of_a_list_are_named_by_line(tmp_path: Path) -> None:
    put(tmp_path, "cat/1.jpg", "2.jpg")
    file = tmp_path / "list.txt"
    file.write_text("cat/1.jpg\ncat/1.jpg\n2.jpg\nhttps://x.org/3.jpg 1\ncat/4.jpg\n5.jpg\n")
    complaints: list[str] = []
    assert len(datasets.read(str(file), complain=complaints.append).records) == 1
    expected = [
        "cat/1.jpg is listed twice",
        "2.jpg is in no folder that could be its label: add the label after the name",
        "https://x.org/3.jpg 1 is a URL",
        "cat/4.jpg does not exist",
        "5.jpg does not exist",
    ]
    for number, (complaint, words) in enumerate(zip(complaints, expected, strict=True), 2):
        assert complaint.startswith(f"{file}, line {number}: ") and words in complaint


def test_an_image_in_both_lists_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "cat/1.jpg")
    for name in ("train", "val"):
        (tmp_path / f"{name}.txt").write_text("cat/1.jpg\n")
    assert refused(tmp_path) == f"{tmp_path / 'val.txt'}, line 1: cat/1.jpg is listed twice"


def test_the_error_for_a_list_without_a_single_image_names_the_folders(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("cat/1.jpg\n")
    message = refused(tmp_path / "list.txt")
    assert "cat/1.jpg is in none of" in message and "--images" in message
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\n")
    assert "cannot be read as a list of files" in refused(tmp_path / "list.txt")
