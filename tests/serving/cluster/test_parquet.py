from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from models.errors import DataError
from serving.cluster.parquet import images, row_groups
from serving.cluster.places import File

CONTENTS = [b"one", b"two", None, b"four", b"five"]
HUGGING_FACE = [{"bytes": content, "path": "x.jpg"} for content in CONTENTS]


def written(folder: Path, columns: dict[str, Any], name: str = "a.parquet") -> File:
    parquet.write_table(pa.table(columns), folder / name, row_group_size=2)
    return File(name)


def read(file: File, folder: Path) -> dict[str, bytes]:
    groups = row_groups(file, folder)
    return {path: bytes_of() for group in groups for path, bytes_of in images(group, folder)}


@pytest.mark.parametrize("column", [CONTENTS, HUGGING_FACE, pa.array(CONTENTS, pa.large_binary())])
def test_an_image_is_a_row_by_its_number_and_a_null_is_an_empty_file(
    column: Any, tmp_path: Path
) -> None:
    file = written(tmp_path, {"label": [1, 2, 3, 4, 5], "photo": column})
    assert [group.count for group in row_groups(file, tmp_path)] == [2, 2, 1]
    expected = {f"a.parquet#{row}": content or b"" for row, content in enumerate(CONTENTS)}
    assert read(file, tmp_path) == expected


def test_of_several_columns_of_bytes_the_one_called_image_is_read(tmp_path: Path) -> None:
    file = written(tmp_path, {"mask": CONTENTS, "image": CONTENTS[::-1]})
    assert read(file, tmp_path)["a.parquet#0"] == b"five"
    for columns, found in (
        ({"mask": CONTENTS, "photo": CONTENTS}, "mask, photo among mask, photo"),
        ({"label": [1], "text": ["x"]}, "none among label, text"),
    ):
        with pytest.raises(DataError) as caught:
            row_groups(written(tmp_path, columns, "b.parquet"), tmp_path)
        assert str(caught.value) == (
            "b.parquet must have one image column, of bytes or of structs of bytes and path, or"
            f" one called image; it has {found}"
        )


def test_what_is_no_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match=r"^a.parquet cannot be read as Parquet: .*\S$") as caught:
        row_groups(File("a.parquet"), tmp_path)
    assert "\n" not in str(caught.value)


def test_from_where_a_row_group_cannot_be_read_on_each_image_says_so(tmp_path: Path) -> None:
    file = written(tmp_path, {"image": CONTENTS})
    groups = row_groups(file, tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"cut off since")
    found = dict(images(groups[0], tmp_path))
    assert list(found) == ["a.parquet#0", "a.parquet#1"]
    for bytes_of in found.values():
        with pytest.raises(OSError, match="^a.parquet: "):
            bytes_of()
