"""The findings of an inspection: what is wrong with a data set, and what is notable."""

from collections import Counter, defaultdict
from collections.abc import Callable, Container, Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from models.errors import DataError
from training.data import conflicts, split
from training.data.datasets import Dataset
from training.data.record import Record
from training.data.split import Split

FEW = 10  # labels with fewer images are reported


@dataclass(frozen=True)
class Findings:
    """The content of `inspection.json`; files are relative to `root`, sizes as stored."""

    root: str
    task: str
    images: int
    split_is_given: bool  # of some of the images, where several DATA were given
    training_images: int  # training images without the quarantine; 0 if the split is refused
    validation_images: int  # validation images, likewise
    test_images: int  # of an official split; they are in `images` too
    labels: dict[str, int]  # most images first
    few: list[str]  # labels with fewer than FEW images
    unlabelled: int
    refused: list[str]  # why `train` would not start, apart from the quarantine
    notes: list[str]
    unused: list[str]  # files that are not images of DATA
    strays: list[str]  # those of them that are images next to class folders
    quarantine: dict[str, str]  # file -> reason
    formats: dict[str, int]
    modes: dict[str, int]
    extensions_that_lie: dict[str, str]  # file -> its format
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
        """The files that cannot be used, with the reason."""
        return {
            file: reason.removeprefix(_BAD)
            for file, reason in self.quarantine.items()
            if reason.startswith(_BAD)
        }


_BAD = "bad: "


def find(dataset: Dataset, refused: Sequence[str], valid: float, seed: int) -> Findings:
    """All findings about the records, which must be scanned and grouped.

    refused: the complaints from reading the data; valid, seed: of the split, as in the recipe.
    """
    records = (*dataset.records, *dataset.test)
    usable = [record for record in records if record.scan.error is None]
    contents = _together(usable, lambda record: record.sha256)
    alike = _together(usable, lambda record: record.group)
    near = [group for group in alike if len({record.sha256 for record in group}) > 1]
    counts = Counter(label for record in dataset.records for label in record.labels)
    quarantine = {
        record.file: f"{_BAD}{record.scan.error}"
        for record in records
        if record.scan.error is not None
    }
    given = [_as_audited(record) for record in usable if record.side is not None]
    leaks = split.straddling(given, lambda record: record.sha256)
    tests = {record.file for record in dataset.test}
    for leak in leaks:
        twin = leak.valid[0].file
        kind = "test" if twin in tests else "validation"
        for record in leak.train:
            quarantine[record.file] = f"leak: the same bytes as the {kind} image {twin}"
    quarantine |= conflicts.find(usable)
    near_leaks = split.straddling(given, lambda record: record.group)
    sides, objection = _split(dataset, quarantine, valid, seed)
    return Findings(
        root=str(dataset.root),
        task=dataset.task,
        images=len(records),
        split_is_given=any(record.side is not None for record in records),
        training_images=len(sides.train),
        validation_images=len(sides.valid),
        test_images=len(dataset.test),
        labels=dict(counts.most_common()),
        few=sorted(label for label, count in counts.items() if count < FEW),
        unlabelled=sum(not record.labels for record in dataset.records),
        refused=[*refused, *objection],
        notes=list(dataset.notes),
        unused=list(dataset.unused),
        strays=list(dataset.strays),
        quarantine=quarantine,
        formats=_counted([record.scan.format for record in usable]),
        modes=_counted([record.scan.mode for record in usable]),
        extensions_that_lie={r.file: str(r.scan.format) for r in usable if r.extension_is_wrong},
        turned={r.file: r.scan.orientation for r in usable if r.scan.orientation != 1},
        widths_px=_range([record.scan.width_px for record in usable]),
        heights_px=_range([record.scan.height_px for record in usable]),
        duplicates=_files(contents),
        duplicates_of_other_labels=_files(_of_other_labels(contents)),
        near_duplicates=_files(near),
        near_duplicates_of_other_labels=_files(_of_other_labels(near)),
        leaks=_files([(*leak.train, *leak.valid) for leak in leaks]),
        near_leaks=_files(
            [
                (*leak.train, *leak.valid)
                for leak in near_leaks
                if len({record.sha256 for record in (*leak.train, *leak.valid)}) > 1
            ]
        ),
    )


def _as_audited(record: Record) -> Record:
    """A test image on the side of the validation images: neither may be trained on."""
    return replace(record, side="valid") if record.side == "test" else record


def _split(
    dataset: Dataset, quarantine: Container[str], valid: float, seed: int
) -> tuple[Split, list[str]]:
    """The split that `train` would make of images not in quarantine, or why it would refuse."""
    kept = tuple(record for record in dataset.records if record.file not in quarantine)
    try:
        return split.split(replace(dataset, records=kept), valid, seed), []
    except DataError as error:
        return Split((), ()), [str(error)]


def _together(
    records: Sequence[Record], key: Callable[[Record], Hashable]
) -> list[Sequence[Record]]:
    """The groups of two or more records that share a key."""
    found: dict[Hashable, list[Record]] = defaultdict(list)
    for record in records:
        found[key(record)].append(record)
    return [group for group in found.values() if len(group) > 1]


def _of_other_labels(groups: Sequence[Sequence[Record]]) -> list[Sequence[Record]]:
    return [group for group in groups if len({record.labels for record in group}) > 1]


def _files(groups: Sequence[Sequence[Record]]) -> list[list[str]]:
    return [[record.file for record in group] for group in groups]


def _counted(values: Sequence[str | None]) -> dict[str, int]:
    return dict(Counter(str(value) for value in values).most_common())


def _range(values: Sequence[int | None]) -> tuple[int, ...]:
    known = [value for value in values if value is not None]
    return (min(known), int(np.median(known)), max(known)) if known else ()
