import os
from pathlib import Path

import pytest

from models.errors import DataError
from serving.cluster.places import File, files, source


def test_a_url_stays_one_and_anything_else_is_a_path() -> None:
    assert source("s3://bucket/a b") == "s3://bucket/a b"
    assert source("gs://bucket") == "gs://bucket"
    assert source("photos/x.jpg") == Path("photos/x.jpg")


@pytest.mark.parametrize("text", ["az://bucket/x", "https://host/x", "s3://", "gs:///"])
def test_a_url_of_another_kind_is_refused(text: str) -> None:
    with pytest.raises(DataError) as caught:
        source(text)
    assert str(caught.value) == (
        f"{text} is no place of images; valid: a file, a folder, s3://BUCKET/PREFIX,"
        " gs://BUCKET/PREFIX"
    )


def test_images_and_parquet_files_are_found_once_and_named_as_given(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.parquet", "notes.txt"):
        (tmp_path / name).touch()
    found = files([tmp_path, tmp_path / "b.JPG", tmp_path / "notes.txt"])
    assert found == [File(str(tmp_path / n)) for n in ("a.parquet", "b.JPG", "notes.txt")]


def test_missing_paths_and_folders_without_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone does not exist: give images or folders of images"):
        files([tmp_path / "gone"])
    with pytest.raises(DataError, match="none of the files ends in .*, .parquet, .png, .webp"):
        files([tmp_path])


def test_a_relative_path_is_read_from_the_driver_s_folder(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"content")
    assert File("a.jpg").read(tmp_path) == b"content"
    with pytest.raises(FileNotFoundError):
        File("b.jpg").read(tmp_path)


def test_below_a_url_a_folder_that_is_called_as_an_image_is_none(tmp_path: Path) -> None:
    (tmp_path / "cats.jpg").mkdir()
    (tmp_path / "cats.jpg" / "a.JPG").touch()
    url = f"file://{tmp_path}"
    assert files([url]) == [File(f"{url}/cats.jpg/a.JPG", url)]


def test_a_name_that_parquet_cannot_hold_is_refused(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).touch()
    with pytest.raises(DataError, match=r"^the name '.*/caf\\udce9.jpg' is not UTF-8, as Parquet"):
        files([tmp_path])
