"""Small CSV files, for people to edit: written, and read with every line checked."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from models.bundle import write_atomically
from models.errors import DataError
from models.wording import counted

Complain = Callable[[str], None]
FILE_NAMES = "surrogateescape"  # for `errors`: a file's name need not be UTF-8


def refuse(message: str) -> None:
    """The strict `complain`: raises DataError."""
    raise DataError(message)


def read(
    file: Path, *forms: tuple[str, ...], complain: Complain = refuse, errors: str = "strict"
) -> Iterator[tuple[str, dict[str, str]]]:
    """Each line as its location and its values by column.

    forms: the allowed sets of columns, in any order; the first column of the first set must have
    a value. An invalid line is skipped after `complain`. errors: how bytes that are not UTF-8 are
    handled, as in `open`. Raises DataError if the file is not such a table.
    """
    try:
        with file.open(encoding="utf-8-sig", errors=errors, newline="") as text:
            reader = csv.DictReader(text)
            columns = tuple(reader.fieldnames or ())
            if sorted(columns) not in [sorted(form) for form in forms]:
                raise DataError(
                    f"{file} has the columns {', '.join(columns)}; they must be"
                    f" {' or '.join(','.join(form) for form in forms)}"
                )
            for row in reader:
                where = f"{file}, line {reader.line_num}"
                if None in row or None in row.values():
                    complain(f"{where}: expected {counted(len(columns), 'value')}")
                elif not row[forms[0][0]]:
                    complain(f"{where}: {forms[0][0]} is empty")
                else:
                    yield where, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} is not a CSV file: {error}") from error
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error


def write(file: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table whose values may be names of files, completely or not at all."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(rows)
    write_atomically(file, text.getvalue().encode(errors=FILE_NAMES))
