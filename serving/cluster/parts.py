"""The predictions in a folder, or below a URL: `part-00000.parquet` and so on.

The columns are those of the CSV of `serving/predict.py`: `path`, `model`, `predicted`, `error`,
with novelty `p_value` and `unknown`, then float32 scores by label; of an image that has an error
the others are null. A part is written at once, by the driver alone, so there is neither half a
part nor a row twice, whatever machines were lost.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs, parquet

from models.bundle import UNFINISHED_PREFIX, write_atomically
from models.errors import DataError
from models.manifest import Manifest
from models.wording import on_one_line
from serving.cluster.places import Source, file_system
from serving.scoring import COLUMNS, OF_NOVELTY, Row, columns, named

ROWS = 4096  # at least, of a part but the last: what an interrupted run has to do again
_NAME = re.compile(r"part-(\d{5,})\.parquet")
_NOTED = ["path", "model", "error"]
_TYPES = {"p_value": pa.float64(), "unknown": pa.bool_()}


def schema(manifest: Manifest) -> pa.Schema:
    """Raises DataError if a label is called as another column."""
    own = columns(manifest)[: -len(manifest.labels)]
    if taken := [label for label in manifest.labels if label in (*COLUMNS, *OF_NOVELTY)]:
        raise DataError(
            f"the label {taken[0]!r} of {named(manifest)} is also another column's name: leave"
            " --ray out, for a CSV"
        )
    fields = [(name, _TYPES.get(name, pa.string())) for name in own]
    return pa.schema([*fields, *((label, pa.float32()) for label in manifest.labels)])


def table(rows: Sequence[Row], manifest: Manifest) -> pa.Table:
    """The rows as a table of this schema."""
    known = [row.novelty for row in rows]
    found: dict[str, Sequence[Any]] = {
        "path": [row.path for row in rows],
        "model": [named(manifest)] * len(rows),
        "predicted": [row.predicted for row in rows],
        "error": [row.error for row in rows],
        "p_value": [novelty and novelty.p_value for novelty in known],
        "unknown": [novelty and novelty.unknown for novelty in known],
    }
    blank = [None] * len(manifest.labels)
    scores = [blank if row.scores is None else row.scores.tolist() for row in rows]
    found |= dict(zip(manifest.labels, zip(*scores, strict=True), strict=True))
    whole = schema(manifest)
    return pa.table([pa.array(found[f.name], f.type) for f in whole], schema=whole)


class Parts:
    """errors: path -> error, or an empty text, of every image that is done."""

    def __init__(self, out: Source, manifest: Manifest) -> None:
        """Raises DataError if the folder has anything but parts of this model's predictions, or
        cannot be read.
        """
        self.out = out
        self.schema = schema(manifest)
        self._model = named(manifest)
        self._waiting: list[pa.Table] = []
        self._next = 0
        self.errors: dict[str, str] = {}
        for number, part in self._found():
            self._next = max(self._next, number + 1)
            self._note(part)

    def add(self, rows: pa.Table) -> None:
        """Keep the rows, and write a part once there are enough."""
        self._waiting.append(rows.cast(self.schema))
        if sum(map(len, self._waiting)) >= ROWS:
            self.write()

    def write(self) -> None:
        """Write the rows that wait."""
        whole = pa.concat_tables(self._waiting) if self._waiting else ()
        if not len(whole):
            return
        buffer = pa.BufferOutputStream()
        parquet.write_table(whole, buffer)
        content = buffer.getvalue().to_pybytes()
        self._write(f"part-{self._next:05}.parquet", content)
        self._note(whole)
        self._next, self._waiting = self._next + 1, []

    def _found(self) -> Iterator[tuple[int, pa.Table]]:
        """The number of each part that is there, and its paths, models and errors."""
        with _readable(self.out):
            system, folder = file_system(self.out)
            itself = system.get_file_info(folder)
        if itself.type == fs.FileType.NotFound:
            return
        if itself.type == fs.FileType.File:
            raise DataError(f"{self.out} is a file: give another --out, for a folder")
        with _readable(self.out):
            entries = system.get_file_info(fs.FileSelector(folder))
        for entry in sorted(entries, key=_base_name):
            if entry.base_name.startswith(UNFINISHED_PREFIX):
                continue
            number = _NAME.fullmatch(entry.base_name)
            if number is None:
                raise DataError(
                    f"{self.out} has {entry.base_name}, which is no part of predictions: give"
                    " another --out, a folder that is empty or not there"
                )
            with (
                _readable(f"{self.out}/{entry.base_name}"),
                system.open_input_file(entry.path) as stream,
                parquet.ParquetFile(stream) as part,
            ):
                if not part.schema_arrow.equals(self.schema):
                    raise DataError(
                        f"{self.out} does not have the columns of {self._model}: give another --out"
                    )
                yield int(number[1]), part.read(_NOTED)

    def _write(self, name: str, content: bytes) -> None:
        """All at once: a local file is renamed, an object is there once it is whole."""
        if isinstance(self.out, Path):
            self.out.mkdir(parents=True, exist_ok=True)
            write_atomically(self.out / name, content)
            return
        system, folder = file_system(self.out)
        with system.open_output_stream(f"{folder}/{name}") as stream:
            stream.write(content)

    def _note(self, part: pa.Table) -> None:
        """Keep the errors. Raises DataError if there are predictions of another model."""
        found = part.select(_NOTED).to_pydict()
        if others := set(found["model"]) - {self._model}:
            raise DataError(
                f"{self.out} has predictions of {others.pop()}, not {self._model}: give another"
                " --out"
            )
        errors = (error or "" for error in found["error"])
        self.errors |= dict(zip(found["path"], errors, strict=True))


@contextmanager
def _readable(place: Source) -> Iterator[None]:
    """Raises DataError, with one line that names the place, where pyarrow fails in the block."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{place} cannot be read: {on_one_line(error)}") from error


def _base_name(entry: Any) -> str:
    return str(entry.base_name)
