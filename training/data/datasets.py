"""Images and their labels, from any layout that DATA can have."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from models.errors import DataError
from models.manifest import Task
from models.wording import counted, some
from training import output
from training.data import corrections, sources, tasks, unused
from training.data.csv_tables import Complain, refuse
from training.data.folders import SUFFIXES
from training.data.quarantine import read as read_list
from training.data.record import Record
from training.data.relabel import read_relabel, spellings
from training.recipe import Recipe, name_of, sources_of

OPTIONS = (  # a recipe's
    *("pattern", "images", "separator"),
    *("relabel", "quarantine", "correct", "new_labels"),
)


@dataclass(frozen=True)
class Dataset:
    """`records`, sorted by file; `labels`, sorted: the order of the scores.

    root: what the files' names are relative to; more_roots: the ways from it to the roots of other
    DATA. test: the images of an official split that neither train nor validate; `evaluate` takes
    them. empty: labels without an image. notes: what the user should know: what was left out, and
    why. unused: files below the roots that are neither images of DATA nor lists that were given;
    strays: those that are images next to class folders, which have no label.
    """

    root: Path
    records: tuple[Record, ...]
    labels: tuple[str, ...]
    task: Task
    test: tuple[Record, ...] = ()
    empty: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    strays: tuple[str, ...] = ()
    more_roots: tuple[str, ...] = ()

    def print_notes(self) -> None:
        for note in self.notes:
            output.note(note)
        if self.unused:
            output.note(f"{unused.described(self.unused, self.strays)}: inspect names them")


def read_as(recipe: Recipe, complain: Complain = refuse) -> Dataset:
    """The images that the recipe names, as in `read`."""
    options = recipe.model_dump(include={*OPTIONS, "task"})
    return read(recipe.data, **options, complain=complain)


def read(
    data: str | Sequence[str],
    pattern: str | None = None,
    images: str | None = None,
    task: Task | None = None,
    relabel: str | None = None,
    quarantine: str | None = None,
    separator: str | None = None,
    correct: str | None = None,
    new_labels: str | None = None,
    complain: Complain = refuse,
) -> Dataset:
    """The images that `data` names, one or several, without those on the quarantine list.

    The arguments are the recipe's. `complain` is called for each fault that can be skipped; by
    default it raises DataError, as all other faults do. The message says what was expected.
    """
    named = name_of(data)
    lists = [Path(given) for given in (relabel, quarantine, correct) if given is not None]
    found = sources.read(sources_of(data), pattern, images, separator, lists, complain)
    records, notes = found.records, []
    listed: set[str] = set()
    if quarantine is not None:
        listed = {found.own_names.get(file, file) for file in read_list(Path(quarantine))}
        if stale := listed - {record.file for record in records}:
            complain(
                f"{quarantine} lists {some(sorted(stale))}, not in {named}: use the list of this"
                " data, or remove those lines"
            )
        records = [record for record in records if record.file not in listed]
        left_out = counted(len(listed) - len(stale), "image")
        notes.append(f"{left_out} left out, as listed in {quarantine}")
    if not records:
        others = f"; {unused.described(found.unused, found.strays)}" if found.unused else ""
        raise DataError(f"{named} holds no images ({', '.join(SUFFIXES)}){others}")
    if relabel is not None:
        names = read_relabel(Path(relabel), (label for r in records for label in r.labels))
        records = [
            replace(r, labels=tuple(sorted({names.get(label, label) for label in r.labels})))
            for r in records
        ]
    records.sort(key=lambda record: record.file)
    test = tuple(record for record in records if record.side == "test")
    if test:
        records = [record for record in records if record.side != "test"]
        notes.append(f"{counted(len(test), 'test image')} set aside, for `evaluate` alone")
    task = tasks.agreed((*records, *test), found.tasks, sources_of(data), task, complain)
    guessed = sum(bool(record.guess) for record in records)
    if correct is not None:
        before, new = records, corrections.named(new_labels)
        known = found.own_names
        records = corrections.correct(records, Path(correct), task, listed, complain, known, new)
        changed = sum(old != new for old, new in zip(before, records, strict=True))
        notes.append(f"{counted(changed, 'image')} with other labels, as listed in {correct}")
    elif guessed:
        notes.append(
            f"{counted(guessed, 'captured image')} with the labels that the model guessed: inspect"
            " writes a page to correct them"
        )
    return Dataset(
        found.root,
        tuple(records),
        tuple(sorted({label for record in records for label in record.labels})),
        task,
        test,
        tuple(found.empty),
        tuple(notes),
        found.unused,
        found.strays,
        found.more_roots,
    )


def check_labels(dataset: Dataset, complain: Complain = refuse) -> None:
    """Check what training, unlike evaluation, needs of the labels. Raises DataError by default."""
    count = len(dataset.labels)
    if count < (2 if dataset.task == "single" else 1):
        complain(
            f"{dataset.root} has {counted(count, 'label')} ({', '.join(dataset.labels)}); a"
            " single-label task needs two or more, --task multi one or more"
        )
    if dataset.empty:
        complain(
            f"{counted(len(dataset.empty), 'class folder')} of {dataset.root} without images"
            f" ({', '.join(SUFFIXES)}): {some(dataset.empty)}; add images, or remove empty folders"
        )
    for several in spellings(dataset.labels):
        complain(
            f"the labels {', '.join(map(repr, several))} differ only by case or spaces: merge them"
            " with --relabel FILE.csv (columns from,to), or give them names that differ"
        )
