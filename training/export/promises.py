"""What a bundle promises by its validation images: p-values of novelty, and sets of labels.

Each form has its own values for them, so it keeps the promises by itself, however its novelty and
scores differ from the trained network's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from models import conformal
from models.conformal import CONFORMAL_FILE
from models.manifest import Conformal, Precision, Task
from models.outputs import Outputs
from training.data.record import Record
from training.data.targets import encode
from training.evaluation.promises import held_out_by


@dataclass(frozen=True)
class Promises:
    """The manifest's entry and its file; None and no file for a network without novelty."""

    conformal: Conformal | None
    files: dict[str, bytes]


def make(
    outputs: Mapping[Precision, Outputs],
    records: Sequence[Record],
    labels: Sequence[str],
    task: Task,
) -> Promises:
    """outputs: of each form for the validation images, in the order of `records`."""
    if outputs["fp32"].novelty is None:
        return Promises(None, {})
    rows = conformal.chosen([record.sha256 for record in records])
    targets = encode([records[row] for row in rows], labels)
    forms = {
        precision: held_out_by(each.at(rows), targets, task) for precision, each in outputs.items()
    }
    entry = Conformal(file=CONFORMAL_FILE, images=len(rows), alpha=conformal.ALPHA)
    return Promises(entry, {CONFORMAL_FILE: conformal.file_of(forms)})
