from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from serving.cluster.pieces import IMAGES, pieces, row_groups
from serving.cluster.places import File

FILES = [File(f"{number}.jpg") for number in range(3 * IMAGES)]
PATHS = {file.path for file in FILES}


@pytest.mark.parametrize(("workers", "size"), [(1, 192), (2, 96), (100, 1), (1000, 1)])
def test_few_images_are_divided_among_all_workers(workers: int, size: int) -> None:
    found = pieces(FILES, [], PATHS, workers)
    assert [len(piece.files) for piece in found] == [size] * (len(FILES) // size)
    assert [file for piece in found for file in piece.files] == FILES


def test_of_many_images_a_piece_is_no_larger_than_what_may_be_redone() -> None:
    many = [File(f"{number}.jpg") for number in range(5 * IMAGES + 1)]
    found = pieces(many, [], {file.path for file in many}, 1)
    assert [len(piece.files) for piece in found] == [IMAGES] * 5 + [1]


def test_only_what_is_missing_is_in_a_piece(tmp_path: Path) -> None:
    parquet.write_table(
        pa.table({"image": [b"0", b"1", b"2", b"3"]}), tmp_path / "a.parquet", row_group_size=2
    )
    groups = row_groups([*FILES[:3], File("a.parquet")], tmp_path)
    missing = {"1.jpg", "a.parquet#3"}
    rows, files = pieces(FILES[:3], groups, missing, 1)
    assert files.files == (FILES[1],)
    assert [(path, read()) for path, read in rows.images(tmp_path)] == [("a.parquet#3", b"3")]
