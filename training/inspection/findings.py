"""What is wrong, and what is remarkable, with a set of images: the facts of an inspection."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from models.errors import DataError
from training.data import split
from training.data.datasets import Dataset
from training.data.file_scan import Record
from training.data.split import Item

FEW = 10  # a label with fewer images is worth a word


@dataclass(frozen=True)
class Findings:
    """As `inspection.json` has it; images are named as below `root`, pixels as stored."""

    root: str
    task: str
    images: int
    split_is_given: bool
    trained: int  # after the quarantine; 0 and 0 where the split is refused
    held_out: int
    labels: dict[str, int]  # most images first
    few: list[str]  # labels with fewer than FEW images
    unlabelled: int
    refused: list[str]  # why `train` would not start, apart from the quarantine
    notes: list[str]
    quarantine: dict[str, str]  # file -> reason
    formats: dict[str, int]
    modes: dict[str, int]
    extensions_that_lie: dict[str, str]  # file -> what it is
    turned: dict[str, int]  # file -> EXIF orientation
    widths_px: tuple[int, ...]  # smallest, median, largest
    heights_px: tuple[int, ...]
    duplicates: list[list[str]]  # the same bytes
    duplicates_of_other_labels: list[list[str]]
    near_duplicates: list[list[str]]  # groups with different bytes
    near_duplicates_of_other_labels: list[list[str]]
    leaks: list[list[str]]  # the same bytes on both sides of a given split
    near_leaks: list[list[str]]

    @property
    def bad(self) -> dict[str, str]:
        """The files that cannot be used, and why."""
        return {
            file: reason.removeprefix(_BAD)
            for file, reason in self.quarantine.items()
            if reason.startswith(_BAD)
        }


_BAD = "bad: "


def find(
    dataset: Dataset,
    records: Sequence[Record],
    groups: Sequence[int],
    refused: Sequence[str],
    valid: float,
    seed: int,
) -> Findings:
    """Everything that can be told from the files' records and groups, in the dataset's order.

    refused: what reading the data complained of; valid, seed: of the split, as in the recipe.
    """
    names = [example.file for example in dataset.examples]
    labels = {example.file: example.labels for example in dataset.examples}
    usable = {
        name: record for name, record in zip(names, records, strict=True) if record.error is None
    }
    contents = _together({name: record.sha256 for name, record in usable.items()})
    alike = _together({n: g for n, g in zip(names, groups, strict=True) if n in usable})
    near = [files for files in alike if len({usable[file].sha256 for file in files}) > 1]
    counts = Counter(label for example in dataset.examples for label in example.labels)
    quarantine = {
        name: f"{_BAD}{record.error}"
        for name, record in zip(names, records, strict=True)
        if record.error is not None
    }
    given = [
        Item(e.file, str(usable[e.file].sha256), e.labels, e.is_valid)
        for e in dataset.examples
        if e.is_valid is not None and e.file in usable
    ]
    group_of = dict(zip(names, groups, strict=True))
    leaks = split.straddling(given, [item.sha256 for item in given])
    for trained, held_out in leaks:
        for item in trained:
            quarantine[item.file] = f"leak: the same bytes as {held_out[0].file}, held out"
    near_leaks = split.straddling(given, [group_of[item.file] for item in given])
    items, objection = _split(dataset, usable, group_of, quarantine, valid, seed)
    return Findings(
        root=str(dataset.root),
        task=dataset.task,
        images=len(names),
        split_is_given=all(example.is_valid is not None for example in dataset.examples),
        trained=sum(not item.is_valid for item in items),
        held_out=sum(item.is_valid for item in items),
        labels=dict(counts.most_common()),
        few=sorted(label for label, count in counts.items() if count < FEW),
        unlabelled=sum(not example.labels for example in dataset.examples),
        refused=[*refused, *objection],
        notes=list(dataset.notes),
        quarantine=quarantine,
        formats=_counted([record.format for record in usable.values()]),
        modes=_counted([record.mode for record in usable.values()]),
        extensions_that_lie={n: str(r.format) for n, r in usable.items() if r.extension_lies},
        turned={name: record.turn for name, record in usable.items() if record.turn != 1},
        widths_px=_range([record.width_px for record in usable.values()]),
        heights_px=_range([record.height_px for record in usable.values()]),
        duplicates=contents,
        duplicates_of_other_labels=_of_other_labels(contents, labels),
        near_duplicates=near,
        near_duplicates_of_other_labels=_of_other_labels(near, labels),
        leaks=[[item.file for item in trained + held_out] for trained, held_out in leaks],
        near_leaks=[
            [item.file for item in trained + held_out]
            for trained, held_out in near_leaks
            if len({item.sha256 for item in trained + held_out}) > 1
        ],
    )


def _split(
    dataset: Dataset,
    usable: dict[str, Record],
    group_of: dict[str, int],
    quarantine: dict[str, str],
    valid: float,
    seed: int,
) -> tuple[list[Item], list[str]]:
    """What `train` would do with the images that are not in quarantine, or why it would not."""
    kept = tuple(example for example in dataset.examples if example.file not in quarantine)
    left = Dataset(dataset.root, kept, dataset.labels, dataset.task)
    hashes = [str(usable[example.file].sha256) for example in kept]
    try:
        return split.split(left, hashes, [group_of[e.file] for e in kept], valid, seed), []
    except DataError as error:
        return [], [str(error)]


def _together(keys: dict[str, Hashable]) -> list[list[str]]:
    """Files that share a key, where several do."""
    found: dict[Hashable, list[str]] = defaultdict(list)
    for file, key in keys.items():
        found[key].append(file)
    return [files for files in found.values() if len(files) > 1]


def _of_other_labels(
    groups: Sequence[list[str]], labels: dict[str, tuple[str, ...]]
) -> list[list[str]]:
    return [files for files in groups if len({labels[file] for file in files}) > 1]


def _counted(values: Sequence[str | None]) -> dict[str, int]:
    return dict(Counter(str(value) for value in values).most_common())


def _range(values: Sequence[int | None]) -> tuple[int, ...]:
    known = [value for value in values if value is not None]
    return (min(known), int(np.median(known)), max(known)) if known else ()
