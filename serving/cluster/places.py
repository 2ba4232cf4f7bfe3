"""Where the images are: files of a file system that the machines share, or objects below a URL.

The machines open a URL themselves, with the cloud's own variables or their own identity.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from models.errors import DataError
from models.wording import on_one_line
from serving.predict import EXTENSIONS, find

SCHEMES = ("s3", "gs")
PARQUET = ".parquet"
_WANTED = {*EXTENSIONS, PARQUET}

Source = Path | str
"""A file or folder, or a URL."""


@dataclass(frozen=True)
class File:
    """A file, or an object with the address `path`, as rows have it; url: it was found below."""

    path: str
    url: str = ""

    def opened(self, folder: Path) -> Any:
        """pyarrow's stream of it. folder: that a relative path is relative to. Raises OSError."""
        from pyarrow import OSFile

        if not self.url:
            return OSFile(str(folder / self.path))
        system, _ = file_system(self.url)
        return system.open_input_file(self.path.partition("://")[2])

    def read(self, folder: Path) -> bytes:
        """Raises OSError, with the reason alone."""
        if not self.url:
            return (folder / self.path).read_bytes()
        with self.opened(folder) as stream:
            return bytes(stream.read())


def source(text: str) -> Source:
    """A path, or a URL as s3://BUCKET/PREFIX. Raises DataError for a URL of another kind."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        return Path(text)
    if scheme not in SCHEMES or not rest.strip("/"):
        valid = ", ".join(f"{scheme}://BUCKET/PREFIX" for scheme in SCHEMES)
        raise DataError(f"{text} is no place of images; valid: a file, a folder, {valid}")
    return text


def files(sources: Sequence[Source]) -> list[File]:
    """The images and Parquet files in all of them, each once.

    Raises DataError if there is none, or one whose name Parquet cannot hold.
    """
    paths = [one for one in sources if isinstance(one, Path)]
    found = [File(str(path)) for path in find(paths, _WANTED)] if paths else []
    below = (_below(one) for one in sources if isinstance(one, str))
    whole = list(dict.fromkeys(chain(found, *below)))
    for one in whole:
        try:
            one.path.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"the name {one.path!r} is not UTF-8, as Parquet needs it: rename the file, or"
                " leave --ray out, for a CSV"
            ) from error
    return whole


def _below(url: str) -> Iterator[File]:
    """The object at the URL, or those below it that are images or Parquet."""
    from pyarrow import fs

    shown = url.partition("?")[0]
    try:
        system, path = file_system(url)
        itself = system.get_file_info(path)
        if itself.type == fs.FileType.Directory:
            below = system.get_file_info(fs.FileSelector(path, recursive=True))
            objects = (one for one in below if one.is_file)
            found = [one.path for one in objects if f".{one.extension.lower()}" in _WANTED]
        else:
            found = [path] if itself.type == fs.FileType.File else []
    except (OSError, ValueError) as error:
        raise DataError(f"{shown} cannot be listed: {on_one_line(error)}") from error
    if not found:
        raise DataError(
            f"no images in {shown}: none of the objects ends in {', '.join(sorted(_WANTED))}"
        )
    scheme = url.partition("://")[0]
    yield from (File(f"{scheme}://{path}", url) for path in sorted(found))


@cache
def file_system(place: Source) -> tuple[Any, str]:
    """pyarrow's file system of a place, and the path in it."""
    from pyarrow import fs

    if isinstance(place, Path):
        return fs.LocalFileSystem(), str(place.absolute())
    system, path = fs.FileSystem.from_uri(place)
    return system, str(path).rstrip("/")
