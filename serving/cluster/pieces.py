"""What there is to score, in pieces: what an actor is given at once, and what is redone if it dies.

The driver only lists; the images' bytes never pass through it.
"""

from collections.abc import Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from serving.cluster import parquet
from serving.cluster.parquet import RowGroup
from serving.cluster.places import PARQUET, File
from serving.scoring import Image

IMAGES = 256  # most image files of a piece
_PIECES_A_WORKER = 4  # at least, of few images: so that all finish at about the same time
_FOOTERS_AT_ONCE = 16


@dataclass(frozen=True)
class Piece:
    """Either image files, or the rows `wanted` of a row group of a Parquet file."""

    files: tuple[File, ...] = ()
    group: RowGroup | None = None
    wanted: frozenset[str] = frozenset()

    def images(self, folder: Path) -> Iterator[Image]:
        """Each with what reads it. folder: that relative paths are relative to."""
        if self.group is None:
            for file in self.files:
                yield file.path, partial(file.read, folder)
        else:
            for path, read in parquet.images(self.group, folder):
                if path in self.wanted:
                    yield path, read


def row_groups(files: Sequence[File], folder: Path) -> list[RowGroup]:
    """Those of the Parquet files among the files. Raises DataError as `parquet.row_groups`."""
    tables = filter(is_table, files)
    with ThreadPoolExecutor(_FOOTERS_AT_ONCE, "footers") as readers:
        found = readers.map(lambda file: parquet.row_groups(file, folder), tables)
        return list(chain.from_iterable(found))


def pieces(
    images: Sequence[File], groups: Sequence[RowGroup], missing: Container[str], workers: int
) -> list[Piece]:
    """Of the image files and of the row groups, only with the images that are `missing`."""
    found = [
        Piece(group=group, wanted=frozenset(path for path in group.paths() if path in missing))
        for group in groups
    ]
    left = tuple(file for file in images if file.path in missing)
    size = max(1, min(IMAGES, len(left) // (_PIECES_A_WORKER * workers)))
    by_files = [Piece(left[first : first + size]) for first in range(0, len(left), size)]
    return [*(piece for piece in found if piece.wanted), *by_files]


def is_table(file: File) -> bool:
    return file.path.lower().endswith(PARQUET)
