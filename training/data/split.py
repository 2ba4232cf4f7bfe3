"""Which images are held out: the same ones on every machine, whatever their names and order."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from models.bundle import sha256, write_atomically
from models.errors import DataError, RunError
from training.data.datasets import Dataset


@dataclass(frozen=True)
class Item:
    """One line of `split.jsonl`: an image, its content's hash, its labels and its side."""

    file: str
    sha256: str
    labels: tuple[str, ...]
    is_valid: bool


def split(
    dataset: Dataset, hashes: Sequence[str], groups: Sequence[int], valid: float, seed: int
) -> list[Item]:
    """Hold out the share `valid` of the images, or what an official split says.

    hashes, groups: each image's sha256, and its group as `duplicates.groups` numbers them. A group
    stays together. Within each label (all images together for multi-label data) the groups are
    ordered by sha256(seed + smallest hash) and taken from the front, as long as every label keeps
    an image to train on.

    Raises DataError if a side is left empty or an official split has the same bytes on both.
    """
    sides = [example.is_valid for example in dataset.examples]
    if None in sides:
        held_out = _held_out(dataset, hashes, groups, valid, seed)
        sides = [group in held_out for group in groups]
    items = [
        Item(example.file, h, example.labels, bool(is_valid))
        for example, h, is_valid in zip(dataset.examples, hashes, sides, strict=True)
    ]
    if leaks := straddling(items, hashes):
        names = [item.file for trained, validated in leaks for item in (*trained, *validated)]
        raise DataError(
            f"{len(leaks)} images are on both sides of the given split, among them"
            f" {', '.join(names[:4])}: `python -m training inspect DATA --out AUDIT` lists the"
            " copies to train on; leave them out with --quarantine AUDIT/quarantine.csv"
        )
    for side, name in ((True, "validation"), (False, "training")):
        if not any(item.is_valid is side for item in items):
            raise DataError(
                f"the split leaves no image for {name}: {len(items)} images in all, of which each"
                " label keeps one to train on, with its near-duplicates"
            )
    return items


def straddling(
    items: Sequence[Item], keys: Sequence[Hashable]
) -> list[tuple[list[Item], list[Item]]]:
    """What is on both sides of the split: the trained and the held-out items that share a key."""
    sides: dict[Hashable, tuple[list[Item], list[Item]]] = defaultdict(lambda: ([], []))
    for item, key in zip(items, keys, strict=True):
        sides[key][item.is_valid].append(item)
    return [(trained, held_out) for trained, held_out in sides.values() if trained and held_out]


def _held_out(
    dataset: Dataset, hashes: Sequence[str], groups: Sequence[int], valid: float, seed: int
) -> set[int]:
    members: dict[int, list[tuple[tuple[str, ...], str]]] = defaultdict(list)
    for example, h, group in zip(dataset.examples, hashes, groups, strict=True):
        members[group].append((example.labels, h))
    strata: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for group, images in members.items():
        strata[min(images)[0] if dataset.task == "single" else ()].append(group)

    def order(group: int) -> bytes:
        return hashlib.sha256(f"{seed} {min(h for _, h in members[group])}".encode()).digest()

    trained = Counter(label for example in dataset.examples for label in example.labels)
    held_out = set()
    for _, stratum in sorted(strata.items()):
        missing = max(1, round(sum(len(members[group]) for group in stratum) * valid))
        for group in sorted(stratum, key=order):
            lost = Counter(label for labels, _ in members[group] for label in labels)
            if len(members[group]) <= missing and all(trained[name] > lost[name] for name in lost):
                held_out.add(group)
                missing -= len(members[group])
                trained -= lost
    return held_out


def write(path: Path, items: Sequence[Item]) -> None:
    """One JSON object a line."""
    lines = (json.dumps(asdict(item)) for item in items)
    write_atomically(path, "".join(f"{line}\n" for line in lines).encode())


def read(path: Path) -> list[Item]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        items = [json.loads(line) for line in lines]
        return [Item(**{**item, "labels": tuple(item["labels"])}) for item in items]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"{path} is missing or damaged: {error}") from error


def fingerprint(items: Sequence[Item]) -> str:
    """sha256 over every image's hash, labels and side, whatever the files' names and order."""
    lines = sorted(json.dumps([i.sha256, i.labels, i.is_valid]) for i in items)
    return sha256("\n".join(lines).encode())
