"""`python -m serving predict`: a model's predictions for many files as a CSV, as the service's.

Columns: path; model; predicted (the most likely label, or all tags, separated by spaces); error
(code and reason if the service would refuse the file); p_value and unknown (yes or no, at the
model's alpha), if the model measures novelty; one score per label. Rows are written as soon as
their batch is done, so a run that was interrupted resumes where it stopped; files that could not be
read are then tried again.

On the machines of a Ray cluster: `serving/cluster/`.
"""

import csv
import io
import os
import stat
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from tqdm import tqdm

from models.bundle import write_atomically
from models.errors import DataError
from models.manifest import Manifest
from models.wording import counted
from serving.scoring import OF_NOVELTY, Row, Scorer, columns, named
from serving.settings import Settings

EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp"}  # in folders; a file given by name is always read
_NAMES = "surrogateescape"  # of files may be any bytes, and are written as they are


def predict(
    reference: str, paths: Sequence[Path], out: Path, settings: Settings, quiet: bool = False
) -> list[str]:
    """Append the missing rows to the CSV `out`. Returns its errors, each with its file's path.

    paths: images, and folders of images. quiet: without a bar. Raises BundleError if the model is
    not in the store, GateError if it fails its golden images, DataError if a path is missing or
    `out` is of another model.
    """
    files = find(paths)
    scorer = Scorer(settings.store().read(reference), settings)
    header = columns(scorer.manifest)
    asked = {str(file) for file in files}
    done = _done(out, header, named(scorer.manifest), asked)
    missing = [file for file in files if str(file) not in done]
    with (
        out.open("a", encoding="utf-8", errors=_NAMES, newline="") as table,
        tqdm(
            total=len(files),
            initial=len(files) - len(missing),
            unit=" images",
            disable=True if quiet else None,  # None: but in a terminal
        ) as bar,
    ):
        writer = csv.writer(table)
        if not done and table.tell() == 0:
            writer.writerow(header)
        for rows in scorer.rows((str(file), file.read_bytes) for file in missing):
            for row in rows:
                writer.writerow(_line(row, scorer.manifest))
                if row.error:
                    done[row.path] = row.error
            table.flush()
            bar.update(len(rows))
        os.fsync(table.fileno())
    return [f"{path}: {error}" for path, error in done.items() if error and path in asked]


def find(paths: Sequence[Path], extensions: Collection[str] = EXTENSIONS) -> list[Path]:
    """The given files, and those in the given folders with these extensions, sorted; each once."""
    files: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inside = (p for p in path.rglob("*") if p.suffix.lower() in extensions and p.is_file())
            files |= dict.fromkeys(sorted(inside))
        elif path.exists():
            files[path] = None
        else:
            raise DataError(f"{path} does not exist: give images or folders of images")
    if not files:
        raise DataError(
            f"no images in {', '.join(map(str, paths))}: none of the files ends in"
            f" {', '.join(sorted(extensions))}"
        )
    return list(files)


def _line(row: Row, manifest: Manifest) -> list[object]:
    novelty: list[object] = [""] * len(OF_NOVELTY)
    if row.novelty is not None:
        novelty = [row.novelty.p_value, "yes" if row.novelty.unknown else "no"]
    if manifest.tensors.novelty is None:
        novelty = []
    scores = [""] * len(manifest.labels) if row.scores is None else row.scores.tolist()
    return [row.path, named(manifest), row.predicted or "", row.error or "", *novelty, *scores]


def _done(out: Path, header: list[str], model: str, asked: Collection[str]) -> dict[str, str]:
    """Path -> error, or an empty text, of the rows that `out` already has.

    Raises DataError, with `out` as it was, if it is anything but a table of this model's
    predictions; of one that is, an incomplete last line is removed, and the rows of those files
    among `asked` that could not be read.
    """
    if not out.exists():
        return {}
    content = out.read_bytes()
    complete = content[: content.rfind(b"\n") + 1]
    reader = csv.reader(io.StringIO(complete.decode("utf-8", _NAMES), newline=""))
    rows: list[list[str]] = []
    try:
        first = next(reader, None)
        is_ours = _csv([header]).startswith(content) if first is None else first == header
        if not is_ours:
            raise DataError(f"{out} does not have the columns of {model}: give another --out")
        for row in filter(None, reader):  # without blank lines
            if len(row) != len(header):
                raise DataError(
                    f"{out}, line {reader.line_num}, has {counted(len(row), 'column')} and not"
                    f" {len(header)}: remove the line, or give another --out"
                )
            if row[1] != model:
                raise DataError(
                    f"{out} has predictions of {row[1]}, not {model}: give another --out"
                )
            rows.append(row)
    except csv.Error as error:
        raise DataError(f"{out} is not a CSV ({error}): give another --out") from error
    unread = f"{DataError.code}: "  # what is wrong with an image has a code of its own
    kept = [row for row in rows if not (row[0] in asked and row[3].startswith(unread))]
    if len(kept) < len(rows):
        mode = stat.S_IMODE(out.stat().st_mode)
        write_atomically(out.resolve(), _csv([header, *kept]), mode)
    elif complete != content:
        os.truncate(out, len(complete))
    return {row[0]: row[3] for row in kept}


def _csv(rows: Iterable[list[str]]) -> bytes:
    table = io.StringIO(newline="")
    csv.writer(table).writerows(rows)
    return table.getvalue().encode("utf-8", _NAMES)
