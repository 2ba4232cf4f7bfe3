"""The answers about captured images, to be looked through: as corrections, the least sure first."""

from collections.abc import Collection, Iterator, Sequence

from models.manifest import Task
from training.data.corrections import Correction
from training.data.record import Record


def find(records: Sequence[Record], labels: Collection[str], task: Task) -> list[Correction]:
    """What each guess may have to be. labels: those that there are, which alone are suggested.

    Single-label: the next likeliest label in its place. Multi-label: each tag may have to go, and
    the likeliest label that is no tag may be missing.
    """
    suggest = _other_label if task == "single" else _other_tags
    found = [c for record in records if record.guess for c in suggest(record, labels)]
    return sorted(found, key=lambda correction: (-correction.sure, correction.file))


def _other_label(record: Record, labels: Collection[str]) -> Iterator[Correction]:
    scores = dict(record.guess)
    (given,) = record.labels
    others = [label for label, _ in record.guess if label in labels and label != given]
    others += sorted(set(labels) - {given, *others})
    if others:
        yield Correction(record.file, given, others[0], 1 - scores.get(given, 1))


def _other_tags(record: Record, labels: Collection[str]) -> Iterator[Correction]:
    scores = dict(record.guess)
    for tag in record.labels:
        yield Correction(record.file, tag, "", 1 - scores.get(tag, 1))
    missing = [label for label, _ in record.guess if label in labels and label not in record.labels]
    for label in missing[:1]:
        yield Correction(record.file, "", label, scores[label])
