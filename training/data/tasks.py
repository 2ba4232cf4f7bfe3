"""The task of a data set: as given, or as its images' labels ask for; of several DATA the same."""

from collections.abc import Sequence

from models.manifest import Task
from models.wording import counted
from training.data.csv_tables import Complain
from training.data.record import Record


def agreed(
    records: Sequence[Record],
    known: Sequence[Task | None],
    data: Sequence[str],
    task: Task | None,
    complain: Complain,
) -> Task:
    """The task; `complain`s where `task` or two DATA disagree. known: of each DATA, if it says."""
    several = next((record for record in records if len(record.labels) != 1), None)
    if task == "single" and several:
        complain(
            f"{several.file} has {counted(len(several.labels), 'label')}; a single-label"
            " task needs exactly one per image: use --task multi"
        )
    if task is not None:
        return task
    multi = {record.source for record in records if len(record.labels) != 1}
    found = [
        known[source] or ("multi" if source in multi else "single") for source in range(len(data))
    ]
    for source, own in enumerate(found):
        # one label in each image says nothing against tags, unless a model's task is known
        fits = own == found[0] or (own == "single" and known[source] is None)
        if not fits:
            complain(
                f"{data[0]} is {found[0]}-label and {data[source]} is {own}-label: give --task"
                " multi, or train them apart"
            )
    return "multi" if "multi" in found else "single"
