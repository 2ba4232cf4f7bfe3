"""Images of several DATA with the same bytes and different labels: at most one can be right."""

from collections.abc import Sequence

from models.errors import DataError
from models.wording import counted
from training.data.record import Record


def find(records: Sequence[Record]) -> dict[str, str]:
    """The later of each two, with the reason; an image of the first DATA is never among them."""
    first: dict[str, Record] = {}
    found = {}
    for record in sorted(records, key=lambda record: record.source):
        known = first.setdefault(record.sha256, record) if record.sha256 else record
        if known.source != record.source and known.labels != record.labels:
            found[record.file] = (
                f"conflict: the same bytes as {known.file}, which is labelled"
                f" {_named(known)}, not {_named(record)}"
            )
    return found


def refuse(records: Sequence[Record], data: str) -> None:
    """DataError if there is any; data: DATA and its options, as on a command line."""
    if found := find(records):
        file, reason = next(iter(found.items()))
        raise DataError(
            f"{counted(len(found), 'image')} of several DATA with different labels: {file}:"
            f" {reason.removeprefix('conflict: ')}; correct one of them with --correct, or leave"
            f" the later ones out: `python -m training inspect {data} --out AUDIT`, and"
            " --quarantine AUDIT/quarantine.csv"
        )


def _named(record: Record) -> str:
    return " and ".join(record.labels) or "nothing"
