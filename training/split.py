"""Which images are held out: the same ones on every machine, whatever their names and order."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from models.bundle import sha256, write_atomically
from models.errors import DataError, RunError
from training.data import Dataset, Example


@dataclass(frozen=True)
class Item:
    """One line of `split.jsonl`: an image, its content's hash, its labels and its side."""

    file: str
    sha256: str
    labels: tuple[str, ...]
    is_valid: bool


def split(dataset: Dataset, hashes: Sequence[str], valid: float, seed: int) -> list[Item]:
    """Hold out the share `valid` of the images, or what an official split says.

    Images with the same bytes stay together. Within each label (all images together for
    multi-label data) they are ordered by sha256(seed + hash) and taken from the front, as long as
    every label keeps an image to train on.

    Raises DataError if a side is left empty.
    """
    official = [example.is_valid for example in dataset.examples]
    if None not in official:
        held_out = {h for h, is_valid in zip(hashes, official, strict=True) if is_valid}
        trained = {h for h, is_valid in zip(hashes, official, strict=True) if not is_valid}
        if leaks := held_out & trained:
            names = [
                example.file
                for example, h in zip(dataset.examples, hashes, strict=True)
                if h in leaks
            ]
            raise DataError(
                f"{len(leaks)} images are on both sides of the given split, among them"
                f" {', '.join(names[:4])}: remove one of each pair"
            )
    else:
        held_out = _held_out(dataset, hashes, valid, seed)
    items = [
        Item(example.file, h, example.labels, h in held_out)
        for example, h in zip(dataset.examples, hashes, strict=True)
    ]
    for side, name in ((True, "validation"), (False, "training")):
        if not any(item.is_valid is side for item in items):
            raise DataError(f"the split leaves no image for {name}: {len(items)} images in all")
    return items


def _held_out(dataset: Dataset, hashes: Sequence[str], valid: float, seed: int) -> set[str]:
    strata: dict[tuple[str, ...], dict[str, list[Example]]] = defaultdict(dict)
    stratum_of: dict[str, tuple[str, ...]] = {}
    pairs = zip(dataset.examples, hashes, strict=True)
    for example, h in sorted(pairs, key=lambda pair: pair[0].labels):
        stratum = stratum_of.setdefault(h, example.labels if dataset.task == "single" else ())
        strata[stratum].setdefault(h, []).append(example)
    trained = Counter(label for example in dataset.examples for label in example.labels)
    held_out = set()
    for _, groups in sorted(strata.items()):
        missing = max(1, round(sum(map(len, groups.values())) * valid))
        for h in sorted(groups, key=lambda h: hashlib.sha256(f"{seed} {h}".encode()).digest()):
            lost = Counter(label for example in groups[h] for label in example.labels)
            if len(groups[h]) <= missing and all(trained[label] > lost[label] for label in lost):
                held_out.add(h)
                missing -= len(groups[h])
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
