"""DATA, given once or several times: the images of each, named relative to the first's root.

An image of another DATA than the first is named by the way to it, as `../more/cat/1.jpg`. A list of
files may also name it as it is named within its own DATA, if no name there is another DATA's too.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from models.errors import RecipeError
from models.manifest import Task
from training.data import folders, layouts, unused
from training.data.csv_tables import Complain
from training.data.record import Record
from training.recipe import name_of


@dataclass(frozen=True)
class Source:
    """One DATA, its files named relative to its own `root`.

    strays, unused: as in a `Dataset`. task: if its layout knows.
    """

    given: str
    root: Path
    records: Sequence[Record]
    empty: Sequence[str]
    strays: Sequence[str]
    unused: Sequence[str]
    task: Task | None


@dataclass(frozen=True)
class Sources:
    """Every DATA. Files are named relative to `root`, and the records have their source.

    more_roots: the ways from `root` to those of the others. tasks: of each, None if unknown.
    own_names: the name of a file within its own DATA -> its name.
    """

    root: Path
    more_roots: tuple[str, ...]
    records: list[Record]
    empty: list[str]
    strays: tuple[str, ...]
    unused: tuple[str, ...]
    tasks: tuple[Task | None, ...]
    own_names: Mapping[str, str]


def read(
    data: Sequence[str],
    pattern: str | None,
    images: str | None,
    separator: str | None,
    lists: Iterable[Path],
    complain: Complain,
) -> Sources:
    """Read each DATA; the other arguments are the recipe's. lists: files that are no images.

    Raises DataError, RecipeError for an option that has no effect on class folders.
    """
    apart = [*map(Path, data), *lists]
    each, listed = [], False
    for given in data:
        layout = layouts.find(given, pattern, images, separator)
        listed = listed or layout.read is not None
        records, empty, strays = _records(layout, complain)
        used, known = [record.file for record in records], [*apart, *layout.lists]
        left = unused.find(layout.root, used, known, layout.any_folder)
        each.append(Source(given, layout.root, records, empty, strays, left, layout.task))
    for name, value in (("images", images), ("separator", separator)):
        if value is not None and not listed:
            raise RecipeError(f"--{name} is for tables and lists: {name_of(data)} is class folders")
    return merged(each, complain)


def merged(each: Sequence[Source], complain: Complain) -> Sources:
    """An image that two DATA have is skipped after `complain`."""
    root = each[0].root
    ways = [_way(root, source.root) for source in each]
    holders: dict[str, str] = {}
    records: list[Record] = []
    own_names: dict[str, str] = {}
    for number, (way, source) in enumerate(zip(ways, each, strict=True)):
        taken = own_names.keys() | {record.file for record in records}
        names = {record.file: _named(way, record.file) for record in source.records}
        if number and taken.isdisjoint(names):
            own_names |= names
        for record in source.records:
            place = os.path.normpath(os.path.join(os.path.realpath(source.root), record.file))
            if (holder := holders.setdefault(place, source.given)) != source.given:
                complain(f"{holder} and {source.given} both have the image {place}: leave out one")
            else:
                records.append(replace(record, file=names[record.file], source=number))

    def renamed(files: Callable[[Source], Sequence[str]]) -> tuple[str, ...]:
        pairs = zip(ways, each, strict=True)
        return tuple(_named(way, file) for way, source in pairs for file in files(source))

    return Sources(
        root,
        tuple(ways[1:]),
        records,
        [label for source in each for label in source.empty],
        renamed(lambda source: source.strays),
        renamed(lambda source: source.unused),
        tuple(source.task for source in each),
        own_names,
    )


def _records(
    layout: layouts.Layout, complain: Complain
) -> tuple[list[Record], list[str], list[str]]:
    """The records, the labels without an image, and the images without a label."""
    if layout.read is not None:
        return list(layout.read(complain)), [], []
    records, empty = folders.class_folders(layout.root)
    return records, empty, folders.strays(layout.root)


def _way(start: Path, end: Path) -> str:
    """From one folder to another, as the file system sees them: links are resolved."""
    way = os.path.relpath(os.path.realpath(end), os.path.realpath(start))
    return PurePath(way).as_posix()


def _named(way: str, file: str) -> str:
    return file if way == os.curdir else (PurePath(way) / file).as_posix()
