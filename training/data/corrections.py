"""The list of labels to change: a CSV that `inspect --labels` and its page write.

Each line changes one label of one image: `given` is taken away, and `suggested` takes its place. In
a multi-label task one of the two may be empty: a label is then only added, or only taken away.
"""

from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from models.manifest import Task
from training.data import csv_tables
from training.data.csv_tables import Complain, refuse
from training.data.record import Record
from training.data.relabel import nearest

COLUMNS = ("file", "given", "suggested", "sure")


@dataclass(frozen=True)
class Correction:
    """One label of one image, as it is and as it may have to be; `""` is no label.

    sure: how sure it is that `given` is wrong, in [0, 1].
    """

    file: str
    given: str
    suggested: str
    sure: float


def write(file: Path, corrections: Sequence[Correction]) -> None:
    rows = ([c.file, c.given, c.suggested, f"{c.sure:.4f}"] for c in corrections)
    csv_tables.write(file, COLUMNS, rows)


def correct(
    records: Sequence[Record],
    file: Path,
    task: Task,
    left_out: Container[str] = (),
    complain: Complain = refuse,
    own_names: Mapping[str, str] = MappingProxyType({}),
    new_labels: Collection[str] = (),
) -> list[Record]:
    """The records with the labels that the list in `file` gives them.

    Its last column is not needed. A line about an image in `left_out` has no effect; any other that
    does not fit the records is skipped after `complain`. own_names: as in `Sources`. new_labels:
    those that may be given although no record has them.
    """
    labels = {record.file: set(record.labels) for record in records}
    known = sorted(set(new_labels).union(*labels.values()))
    forms, errors = (COLUMNS[:3], COLUMNS), csv_tables.FILE_NAMES
    for where, row in csv_tables.read(file, *forms, complain=complain, errors=errors):
        name, given, suggested = (row[column] for column in COLUMNS[:3])
        name = own_names.get(name, name)
        if name in left_out:
            continue
        if fault := _fault(labels.get(name), given, suggested, known, task):
            complain(f"{where}: {name} {fault}")
            continue
        labels[name].discard(given)
        labels[name] |= {suggested} - {""}
    return [replace(record, labels=tuple(sorted(labels[record.file]))) for record in records]


def named(new_labels: str | None) -> tuple[str, ...]:
    """The labels in the recipe's `new_labels`."""
    return tuple(filter(None, map(str.strip, (new_labels or "").split(","))))


def _fault(
    own: set[str] | None, given: str, suggested: str, known: Sequence[str], task: Task
) -> str | None:
    """What is wrong with a change of the labels `own` of an image, if anything."""
    if own is None:
        return "is not an image of DATA: use the list of this data, or remove the line"
    if given and given not in own:
        return f"has the labels {', '.join(sorted(own)) or 'none'}, not {given!r}: already changed?"
    if task == "single" and not (given and suggested):
        return "needs both given and suggested: a single-label task has one label per image"
    if not given and not suggested:
        return "has neither given nor suggested"
    if suggested in own:
        return f"already has the label {suggested!r}"
    if suggested and suggested not in known:
        return (
            f"would get the unknown label {suggested!r}; valid: {nearest(suggested, known)}, and"
            " those named with --new-labels"
        )
    return None
