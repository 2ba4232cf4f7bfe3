"""The split into training and validation images: the same whatever machine, names and order."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from models.bundle import sha256, write_atomically
from models.errors import DataError, RunError
from models.manifest import Task
from models.wording import counted, some
from training.data import near_duplicates
from training.data.datasets import Dataset
from training.data.record import Record, Side


@dataclass(frozen=True)
class Split:
    """The training and validation records, in the data set's order; each has its side set."""

    train: tuple[Record, ...]
    valid: tuple[Record, ...]

    @property
    def records(self) -> list[Record]:
        """Both sides, in the order of their files."""
        return sorted((*self.train, *self.valid), key=lambda record: record.file)

    def fingerprint(self) -> str:
        """sha256 over every image's hash, labels and side, whatever the files' names and order."""
        lines = [json.dumps([r.sha256, r.labels, r.side == "valid"]) for r in self.records]
        return sha256("\n".join(sorted(lines)).encode())


def split(dataset: Dataset, valid: float, seed: int) -> Split:
    """Choose the fraction `valid` of the images for validation, or follow an official split.

    The records must have their hashes and groups. A group stays together. Within each label (all
    images together for multi-label data) the groups are ordered by sha256(seed + smallest hash)
    and taken from the front, as long as every label keeps an image to train on.

    Of several DATA each is split in turn: those before it stay as they are without it, and its
    images that are alike to theirs follow them.

    Raises DataError if a side is left empty or an official split has the same bytes on both.
    """
    sides_by_file: dict[str, Side | None] = {}
    last = max((record.source for record in dataset.records), default=0)
    for source in range(last + 1):
        known = [record for record in dataset.records if record.source <= source]
        if source < last:  # without the images of later DATA, which can join groups
            known = near_duplicates.group(known)
        own = [record for record in known if record.source == source]
        if any(record.side is None for record in own):
            earlier = [replace(r, side=sides_by_file[r.file]) for r in known if r.source < source]
            own = _sided(own, earlier, dataset.task, valid, seed)
        sides_by_file |= {record.file: record.side for record in own}
    records = [replace(record, side=sides_by_file[record.file]) for record in dataset.records]
    if leaks := straddling(records, lambda record: record.sha256):
        names = [record.file for leak in leaks for record in (*leak.train, *leak.valid)]
        raise DataError(
            f"{counted(len(leaks), 'image')} on both sides of the given split:"
            f" {some(names, 4)}: `python -m training inspect DATA --out AUDIT` lists the"
            " training copies; leave them out with --quarantine AUDIT/quarantine.csv"
        )
    sides = _by_side(records)
    for side, name in ((sides.valid, "validation"), (sides.train, "training")):
        if not side:
            raise DataError(
                f"the split leaves no image for {name}: {counted(len(records), 'image')} in all,"
                " of which each label keeps one to train on, with its near-duplicates"
            )
    return sides


def straddling(records: Iterable[Record], key: Callable[[Record], Hashable]) -> list[Split]:
    """The records that share a key across both sides of the split: a Split for each such key."""
    sharing: dict[Hashable, list[Record]] = defaultdict(list)
    for record in records:
        sharing[key(record)].append(record)
    both = map(_by_side, sharing.values())
    return [sides for sides in both if sides.train and sides.valid]


def _by_side(records: Sequence[Record]) -> Split:
    return Split(
        tuple(record for record in records if record.side == "train"),
        tuple(record for record in records if record.side == "valid"),
    )


def _sided(
    records: Sequence[Record], earlier: Sequence[Record], task: Task, valid: float, seed: int
) -> list[Record]:
    """The records of one DATA with their sides. earlier: those of DATA before it, with theirs.

    A group that has images of `earlier` on both sides is validated on: not trained on, it leaks
    nothing to them.
    """
    sides: dict[int, Side] = {}
    for record in earlier:
        if record.side is not None and sides.get(record.group) != "valid":
            sides[record.group] = record.side
    free = [record for record in records if record.group not in sides]
    follow = [record for record in records if sides.get(record.group) == "train"]
    kept = [record for record in earlier if record.side == "train"]
    for group in _validation_groups(free, [*kept, *follow], task, valid, seed):
        sides[group] = "valid"
    return [replace(record, side=sides.get(record.group, "train")) for record in records]


def _validation_groups(
    free: Sequence[Record], kept: Sequence[Record], task: Task, valid: float, seed: int
) -> set[int]:
    """The groups of `free` to validate on. kept: others that are trained on."""
    members: dict[int, list[Record]] = defaultdict(list)
    for record in free:
        members[record.group].append(record)
    strata: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for group, records in members.items():
        labels = min((r.labels, r.sha256) for r in records)[0]
        strata[labels if task == "single" else ()].append(group)

    def order(group: int) -> bytes:
        return hashlib.sha256(f"{seed} {min(r.sha256 for r in members[group])}".encode()).digest()

    trained = Counter(label for record in (*free, *kept) for label in record.labels)
    chosen = set()
    for _, stratum in sorted(strata.items()):
        missing = max(1, round(sum(len(members[group]) for group in stratum) * valid))
        for group in sorted(stratum, key=order):
            lost = Counter(label for record in members[group] for label in record.labels)
            if len(members[group]) <= missing and all(trained[name] > lost[name] for name in lost):
                chosen.add(group)
                missing -= len(members[group])
                trained -= lost
    return chosen


def write(path: Path, sides: Split) -> None:
    """One JSON object per line: file, sha256, labels and is_valid."""
    lines = [
        json.dumps(
            {
                "file": record.file,
                "sha256": record.sha256,
                "labels": record.labels,
                "is_valid": record.side == "valid",
            }
        )
        for record in sides.records
    ]
    write_atomically(path, "".join(f"{line}\n" for line in lines).encode())


def read(path: Path) -> Split:
    """What `write` wrote. Raises RunError."""
    try:
        return _by_side([_record(line) for line in path.read_text(encoding="utf-8").splitlines()])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"{path} is missing or corrupt: {error}") from error


def _record(line: str) -> Record:
    found = dict(json.loads(line))  # TypeError unless it is an object
    side = found.pop("is_valid")
    return Record(**found | {"labels": tuple(found["labels"])}, side="valid" if side else "train")
