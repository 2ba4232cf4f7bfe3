"""DATA as Parquet files with images inside, as Hugging Face's `datasets` writes them.

An image column is a struct of `bytes` and `path`; `label` or `labels` is text, a number, or a list
of them. Numbers get the names that `datasets` keeps in the schema (ClassLabel). The images are
unpacked once, into a folder with `metadata.jsonl` that `hugging_face` reads: everything after that
works with files, and a file of a run can be looked at, and checked against its hash.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from models.cache_folder import cache_folder
from models.errors import DataError, LabradorError
from models.preprocess import TRAINING_FORMATS, image_format
from models.wording import counted, installing
from training import output
from training.data import sides
from training.data.record import FORMATS

_LABELS = ("label", "labels")
_ROWS = 64  # decoded at a time
_SUFFIXES = {form: suffix for suffix, form in FORMATS.items()}


def files(data: Path) -> list[Path]:
    """The Parquet files of a folder: in it, in `data/`, or in the folders of a split."""
    folders = [f for f in sorted(data.iterdir()) if f.is_dir() and sides.is_split(f.name)]
    return [
        file
        for place in (data, data / "data", *folders)
        for file in sorted(place.glob("*.parquet"))
    ]


def unpacked(found: Sequence[Path], name: str) -> Path:
    """The folder with the images of the files: in $LABRADOR_CACHE or ~/.cache/labrador.

    It is called by `name` and by the files' hash, so that others get another. Raises DataError.
    """
    content = hashlib.sha256()
    try:
        for file in found:
            with file.open("rb") as data:
                digest = hashlib.file_digest(data, "sha256").hexdigest()
            content.update(json.dumps([_split(file), file.stem, digest]).encode())
        whole = cache_folder() / "parquet" / f"{name}-{content.hexdigest()[:16]}"
        if whole.is_dir():
            return whole
        whole.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{whole}.lock"):  # of several processes one unpacks
            if not whole.is_dir():
                _unpack(found, whole)
    except OSError as error:
        raise DataError(f"{found[0]} cannot be unpacked: {error}") from error
    return whole


def _unpack(found: Sequence[Path], whole: Path) -> None:
    partial = whole.with_name(f"{whole.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    output.note(f"unpacking {counted(len(found), 'Parquet file')} to {whole}")
    with (partial / "metadata.jsonl").open("w", encoding="utf-8") as metadata:
        for file in found:
            folder = partial / (_split(file) or "images")
            folder.mkdir(exist_ok=True)
            for row, (data, column, label) in enumerate(_rows(file)):
                image = folder / f"{file.stem}-{row:06}{_suffix(data)}"
                with image.open("xb") as to:
                    to.write(data)
                line = {"file_name": image.relative_to(partial).as_posix(), column: label}
                metadata.write(json.dumps(line) + "\n")
    partial.rename(whole)  # so a folder without the suffix is complete


def _split(file: Path) -> str:
    """The name of the split that a file is of: `train-00000-of-00001` or `train/0000`."""
    names = (re.split(r"[-._]", file.stem)[0], file.parent.name)
    return next((name.lower() for name in names if sides.is_split(name)), "")


def _rows(file: Path) -> Iterator[tuple[bytes, str, Any]]:
    """Of each row the image's bytes, the label's column, and the label or labels.

    An image that has no bytes is empty: the scan finds it like any other bad file.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(
            f"{file} is Parquet, which needs pyarrow: {installing('parquet')}"
        ) from error
    try:
        with parquet.ParquetFile(file) as table:
            image, label = _columns(file, table.schema_arrow)
            names = _names(table.schema_arrow, label)
            for batch in table.iter_batches(_ROWS, columns=[image, label]):
                for row in batch.to_pylist():
                    data = (row[image] or {}).get("bytes") or b""
                    value = _named(row[label], names)
                    if label == "labels" and names and not isinstance(value, list):
                        value = [] if value is None else [value]  # a name may contain spaces
                    yield data, label, value
    except pyarrow.ArrowException as error:
        raise DataError(f"{file} cannot be read as Parquet: {error}") from error


def _columns(file: Path, schema: Any) -> tuple[str, str]:
    """The names of the image column and of the label column."""
    images = [field.name for field in schema if _is_image(field.type)]
    labels = [name for name in _LABELS if name in schema.names]
    for what, names, expected in (
        ("image column", images, "a struct of bytes and path"),
        ("column of labels", labels, "label or labels"),
    ):
        if len(names) != 1:
            raise DataError(
                f"{file} must have one {what}, {expected}; it has {', '.join(names) or 'none'}"
                f" among {', '.join(schema.names)}"
            )
    return images[0], labels[0]


def _is_image(kind: Any) -> bool:
    from pyarrow import types

    return types.is_struct(kind) and {"bytes", "path"} <= {field.name for field in kind}


def _names(schema: Any, column: str) -> list[str] | None:
    """The names of a ClassLabel, or of a list of them, from what `datasets` adds to the schema."""
    try:
        kept = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
    except (KeyError, TypeError, ValueError):
        return None
    while "names" not in kept:
        kept = kept[0] if isinstance(kept, list) else kept.get("feature")
        if not kept:
            return None
    return [str(name) for name in kept["names"]]


def _named(value: Any, names: list[str] | None) -> Any:
    """A label as `hugging_face` reads it: numbers by their names; -1 is no label, as there."""
    if isinstance(value, list):
        return [_named(one, names) for one in value]
    if names is None or not isinstance(value, int):
        return value
    return names[value] if 0 <= value < len(names) else None


def _suffix(data: bytes) -> str:
    """The extension of the image's format; none if it is not one."""
    try:
        return _SUFFIXES[image_format(data, TRAINING_FORMATS)]
    except LabradorError:
        return ""
