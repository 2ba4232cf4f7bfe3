"""`python -m serving predict`: a model's predictions for many files as a CSV, as the service's.

Columns: path; model; predicted (the most likely label, or all tags, separated by spaces); error
(code and reason if the service would refuse the file); p_value and unknown (yes or no, at the
model's alpha), if the model measures novelty; one score per label. Rows are written as soon as
their batch is done, so a run that was interrupted resumes where it stopped.
"""

import csv
import io
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from models import bundle, conformal, decision
from models.conformal import HeldOut
from models.errors import DataError, LabradorError
from models.hardware import cpu_cores
from models.manifest import Manifest
from models.preprocess import decode
from models.store import Store
from serving.forms import open_proved
from serving.session import Place, Session
from serving.settings import Settings

EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp"}  # in folders; a file given by name is always read
_COLUMNS = ["path", "model", "predicted", "error"]
_OF_NOVELTY = ["p_value", "unknown"]

Pixels = NDArray[np.uint8] | LabradorError


def predict(reference: str, paths: Sequence[Path], out: Path, settings: Settings) -> list[str]:
    """Append the missing rows to the CSV `out`. Returns its errors, each with its file's path.

    paths: images, and folders of images. Raises BundleError if the model is not in the store,
    GateError if it fails its golden images, DataError if a path is missing or `out` is of another
    model.
    """
    files = find(paths)
    loaded = bundle.read(Store(settings.model_store).path(reference))
    cores = settings.cores or cpu_cores()
    session = open_proved(loaded, settings, Place(threads=cores, worker=0))
    manifest = loaded.manifest
    header = [*_COLUMNS, *_novelty_columns(manifest), *manifest.labels]
    done = _done(out, header, _named(manifest))
    missing = [file for file in files if str(file) not in done]
    with (
        out.open("a", encoding="utf-8", newline="") as table,
        ThreadPoolExecutor(cores, "decode") as decoders,
        tqdm(
            total=len(files), initial=len(files) - len(missing), unit=" images", disable=None
        ) as bar,
    ):
        writer = csv.writer(table)
        if not done and table.tell() == 0:
            writer.writerow(header)
        for batch in _batches(missing, manifest, settings, session.max_batch, decoders):
            for row in _rows(batch, session, manifest):
                writer.writerow(row)
                if row[3]:
                    done[str(row[0])] = str(row[3])
            table.flush()
            bar.update(len(batch))
        os.fsync(table.fileno())
    asked = {str(file) for file in files}
    return [f"{path}: {error}" for path, error in done.items() if error and path in asked]


def find(paths: Sequence[Path]) -> list[Path]:
    """The given files, and the image files in the given folders, sorted; each file once."""
    files: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inside = (p for p in path.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file())
            files |= dict.fromkeys(sorted(inside))
        elif path.exists():
            files[path] = None
        else:
            raise DataError(f"{path} does not exist: give images or folders of images")
    if not files:
        raise DataError(
            f"no images in {', '.join(map(str, paths))}: none of the files ends in"
            f" {', '.join(sorted(EXTENSIONS))}"
        )
    return list(files)


def _batches(
    files: Sequence[Path],
    manifest: Manifest,
    settings: Settings,
    max_batch: int,
    decoders: ThreadPoolExecutor,
) -> Iterator[list[tuple[Path, Pixels]]]:
    """Decoded files in order; while the model runs one batch, the next two are decoded."""

    def read(file: Path) -> Pixels:
        try:
            return decode(file.read_bytes(), manifest.preprocess, settings.max_megapixels)
        except LabradorError as error:
            return error
        except OSError as error:
            return DataError(f"cannot be read: {error.strerror}")

    waiting: deque[tuple[Path, Future[Pixels]]] = deque()
    rest = iter(files)
    while True:
        for file in islice(rest, 3 * max_batch - len(waiting)):
            waiting.append((file, decoders.submit(read, file)))
        if not waiting:
            return
        count = min(max_batch, len(waiting))
        taken = [waiting.popleft() for _ in range(count)]
        yield [(file, decoded.result()) for file, decoded in taken]


def _rows(
    batch: Sequence[tuple[Path, Pixels]], session: Session, manifest: Manifest
) -> Iterator[list[object]]:
    images = [pixels for _, pixels in batch if not isinstance(pixels, LabradorError)]
    outputs = iter(session.outputs(np.stack(images)).each() if images else ())
    for file, pixels in batch:
        if isinstance(pixels, LabradorError):
            blank = [""] * (len(_novelty_columns(manifest)) + len(manifest.labels))
            yield [file, _named(manifest), "", f"{pixels.code}: {pixels}", *blank]
            continue
        own = next(outputs)
        if manifest.task == "single":
            predicted = decision.classify(own.scores, manifest, top_k=1)[0].label
        else:
            predicted = " ".join(tag.label for tag in decision.tag(own.scores, manifest))
        strangeness = _strangeness(own.novelty, session.held_out, manifest)
        yield [file, _named(manifest), predicted, "", *strangeness, *own.scores.tolist()]


def _novelty_columns(manifest: Manifest) -> list[str]:
    return [] if manifest.tensors.novelty is None else _OF_NOVELTY


def _strangeness(
    novelty: np.float32 | None, held_out: HeldOut | None, manifest: Manifest
) -> list[object]:
    if novelty is None or held_out is None or manifest.conformal is None:
        return []
    found = conformal.judge(novelty, held_out, manifest.conformal.alpha)
    return [found.p_value, "yes" if found.unknown else "no"]


def _done(out: Path, header: list[str], model: str) -> dict[str, str]:
    """Path -> error, or an empty text, of the rows that `out` already has.

    An incomplete last line is removed.
    """
    if not out.exists():
        return {}
    content = out.read_bytes()
    complete = content[: content.rfind(b"\n") + 1]
    if complete != content:
        out.write_bytes(complete)
    rows = list(csv.reader(io.StringIO(complete.decode("utf-8", "replace"), newline="")))
    if not rows:
        return {}
    if rows[0] != header:
        raise DataError(f"{out} does not have the columns of {model}: give another --out")
    if others := {row[1] for row in rows[1:]} - {model}:
        raise DataError(f"{out} has predictions of {others.pop()}, not {model}: give another --out")
    return {row[0]: row[3] for row in rows[1:]}


def _named(manifest: Manifest) -> str:
    return f"{manifest.name}:{manifest.version}"
