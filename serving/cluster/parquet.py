"""Images in Parquet files: the column `image`, or the only one of its kind.

It holds the encoded bytes, or structs of `bytes` and `path`, as Hugging Face's `datasets` writes
them. An image is FILE#ROW, counted from 0.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.errors import DataError
from models.wording import on_one_line
from serving.cluster.places import File
from serving.scoring import Image

_IMAGE = "image"
_ROWS = 16  # decoded at a time
_READ_BYTES = 2**20  # at a time: a whole row group of images may not fit into memory


@dataclass(frozen=True)
class RowGroup:
    """The rows `first` to `first + count` of a file. column: with the images."""

    file: File
    number: int
    column: str
    first: int
    count: int

    def paths(self) -> list[str]:
        """Those of its images."""
        return [f"{self.file.path}#{self.first + row}" for row in range(self.count)]


def row_groups(file: File, folder: Path) -> list[RowGroup]:
    """Those of a Parquet file. Raises DataError if it is none, or has not one column of images."""
    import pyarrow
    from pyarrow import parquet

    try:
        with file.opened(folder) as stream, parquet.ParquetFile(stream) as table:
            column = _column(file, table.schema_arrow)
            groups = range(table.num_row_groups)
            counts = [table.metadata.row_group(number).num_rows for number in groups]
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file.path} cannot be read as Parquet: {on_one_line(error)}") from error
    firsts = [sum(counts[:number]) for number in groups]
    return [
        RowGroup(file, number, column, first, count)
        for number, first, count in zip(groups, firsts, counts, strict=True)
    ]


def images(group: RowGroup, folder: Path) -> Iterator[Image]:
    """The images of a row group; from where it cannot be read on, each says so."""
    import pyarrow
    from pyarrow import parquet

    left = iter(group.paths())
    reading = {"buffer_size": _READ_BYTES, "pre_buffer": False}
    try:
        with (
            group.file.opened(folder) as stream,
            parquet.ParquetFile(stream, **reading) as table,
        ):
            wanted = {"row_groups": [group.number], "columns": [group.column]}
            for batch in table.iter_batches(_ROWS, **wanted):
                for value in batch.column(0).to_pylist():
                    yield next(left), _Kept(value)
    except (pyarrow.ArrowException, OSError) as error:
        failed = _Failed(f"{group.file.path}: {on_one_line(error)}")
        yield from ((path, failed) for path in left)


@dataclass(frozen=True)
class _Kept:
    """Reads what a row holds; nothing, as of an empty file, if it is null."""

    value: Any

    def __call__(self) -> bytes:
        value = self.value["bytes"] if isinstance(self.value, dict) else self.value
        return value or b""


@dataclass(frozen=True)
class _Failed:
    reason: str

    def __call__(self) -> bytes:
        raise OSError(self.reason)


def _column(file: File, schema: Any) -> str:
    """The name of the column of images."""
    found = [field.name for field in schema if _holds_bytes(field.type)]
    if _IMAGE in found:
        return _IMAGE
    if len(found) != 1:
        raise DataError(
            f"{file.path} must have one image column, of bytes or of structs of bytes and path, or"
            f" one called {_IMAGE}; it has {', '.join(found) or 'none'} among"
            f" {', '.join(schema.names)}"
        )
    return str(found[0])


def _holds_bytes(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return any(is_bytes(kind) for is_bytes in (types.is_binary, types.is_large_binary))
