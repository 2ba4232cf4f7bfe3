from pathlib import Path

import pytest

from testkit.image_sets import put, write_csv
from training.data import datasets, unused


def rows(*names: str) -> list[list[str]]:
    return [["fname", "labels"], *([name, "cat"] for name in names)]


def test_every_file_that_is_not_used_is_named_whatever_its_suffix(tmp_path: Path) -> None:
    put(tmp_path, "cat/a.jpg", "dog/deep/b.HEIC", "cat/c.gif", "dog/deep/d", "readme.txt")
    found = datasets.read(str(tmp_path))
    assert [record.file for record in found.records] == ["cat/a.jpg", "dog/deep/b.HEIC"]
    assert found.unused == ("cat/c.gif", "dog/deep/d", "readme.txt")


@pytest.mark.parametrize(
    "name",
    [".DS_Store", "cat/._a.jpg", "cat/.cache/index.txt", "__MACOSX/cat/a.jpg", "cat/Thumbs.db"],
)
def test_what_systems_leave_is_not_counted(tmp_path: Path, name: str) -> None:
    put(tmp_path, "cat/a.jpg", name)
    found = datasets.read(str(tmp_path))
    assert (found.unused, found.labels, found.empty) == ((), ("cat",), ())


def test_lists_that_were_given_and_images_left_out_by_them_are_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "cat/a.jpg", "cat/b.jpg", "cat/c.txt")
    write_csv(tmp_path / "names.csv", [["from", "to"], ["cat", "puss"]])
    write_csv(tmp_path / "bad.csv", [["file", "reason"], ["cat/b.jpg", "bad"]])
    monkeypatch.chdir(tmp_path)  # so that one path is relative, the other is not
    found = datasets.read(".", relabel="names.csv", quarantine=str(tmp_path / "bad.csv"))
    assert found.unused == ("cat/c.txt",)


def test_images_that_a_table_does_not_list_are_named_but_not_the_table(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "b.jpg")
    file = write_csv(tmp_path / "labels.csv", rows("a.jpg"))
    assert datasets.read(str(file)).unused == ("b.jpg",)


def test_beside_a_table_only_folders_with_a_listed_image_are_searched(tmp_path: Path) -> None:
    """Its folder may be a home, with millions of files that are nobody's images."""
    put(tmp_path, "photos/deep/a.jpg", "photos/b.jpg", "elsewhere/c.jpg", "d.jpg")
    names = ("photos/deep/../deep/a.jpg",)
    file = write_csv(tmp_path / "labels.csv", rows(*names))
    assert datasets.read(str(file)).unused == ("photos/b.jpg",)


def test_names_outside_the_root_are_no_trouble(tmp_path: Path) -> None:
    put(tmp_path, "csv/a.jpg", "csv/b.jpg", "other/c.jpg")
    names = ("a.jpg", "../other/c.jpg", str(tmp_path / "csv" / "b.jpg"))
    file = write_csv(tmp_path / "csv" / "labels.csv", rows(*names))
    assert datasets.read(str(file)).unused == ()


def test_images_that_a_split_does_not_list_are_named(tmp_path: Path) -> None:
    put(tmp_path, "images/Birman_1.jpg", "images/Birman_2.jpg", "images/Pug_1.mat")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "trainval.txt").write_text("Birman_1 1 1 1\n")
    (tmp_path / "annotations" / "test.txt").write_text("")
    assert datasets.read(str(tmp_path)).unused == ("Birman_2.jpg", "Pug_1.mat")


def test_a_pattern_uses_all_images_below_and_no_other_file(tmp_path: Path) -> None:
    put(tmp_path, "deep/cat_1.jpg", "cat_2.avif", "deep/cat_3.bmp")
    assert datasets.read(str(tmp_path), pattern=r"(.+)_\d").unused == ("deep/cat_3.bmp",)


def test_links_to_folders_are_used_as_class_folders_and_named_below_them(tmp_path: Path) -> None:
    put(tmp_path, "elsewhere/a.jpg", "elsewhere/b.gif", "data/dog/c.jpg")
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "dog" / "more").symlink_to(tmp_path / "data")  # a loop, if followed
    found = datasets.read(str(tmp_path / "data"))
    assert [record.file for record in found.records] == ["cat/a.jpg", "dog/c.jpg"]
    assert found.unused == ("cat/b.gif", "dog/more")


def test_a_table_s_images_behind_a_link_are_used(tmp_path: Path) -> None:
    put(tmp_path, "elsewhere/a.jpg", "data/images/b.jpg")
    (tmp_path / "data" / "images" / "more").symlink_to(tmp_path / "elsewhere")
    file = write_csv(tmp_path / "data" / "labels.csv", rows("images/more/a.jpg", "images/b.jpg"))
    assert datasets.read(str(file)).unused == ()


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ([], "0 files not used"),
        (["a.TXT"], "1 file not used (1 .txt)"),
        (["a.heic", "b.txt", "c.HEIC"], "3 files not used (2 .heic, 1 .txt)"),
        (["LICENSE", "Dr. Who", "a.x"], "3 files not used (2 without a suffix, 1 .x)"),
        (
            [f"{n}.jpg" for n in range(1500)] + ["a.a", "b.b", "c.c", "d.d", "e.e"],
            "1,505 files not used (1,500 .jpg, 1 .a, 1 .b, 1 .c, 2 others)",
        ),
    ],
)
def test_files_are_counted_by_suffix_in_one_line(files: list[str], text: str) -> None:
    assert unused.described(files, []) == text
