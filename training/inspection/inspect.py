"""`inspect`: look at DATA before anything is trained on it.

inspection.json    everything that was found, every file by name
quarantine.csv     files to leave out (file, reason): `train --quarantine` reads it
contact_sheet.jpg  a few images as served and as trained on
"""

import json
import shlex
from collections.abc import Collection, Iterator
from dataclasses import asdict
from pathlib import Path

from models.bundle import write_atomically
from training import run_folder
from training.data import datasets, file_scan, near_duplicates, quarantine
from training.data.datasets import Dataset
from training.inspection import contact_sheet, findings, transform_trace
from training.inspection.findings import FEW, Findings
from training.recipe import Recipe, data_words

INSPECTION_FILE = "inspection.json"
QUARANTINE_FILE = run_folder.QUARANTINE_FILE
SHEET_FILE = "contact_sheet.jpg"
OPTIONS = (  # what of a recipe matters here
    *("pattern", "images", "relabel", "quarantine", "task", "valid", "seed"),
    *("arch", "image_size", "crop_fraction", "flip", "rotation", "scale", "warp", "light"),
)
_SHOWN = 5  # of each kind; the rest is in inspection.json
_EXIF_TURNS = {
    2: "mirrored",
    3: "upside down",
    4: "mirrored, upside down",
    5: "mirrored, on its side",
    6: "on its side",
    7: "mirrored, on its side",
    8: "on its side",
}


def inspect(recipe: Recipe, out: Path | None) -> Path:
    """Look, print what is found, and write it to `out`; that folder.

    What `train` refuses is a finding here. Raises DataError only if there are no images to look
    at, RunError if `out` is in use.
    """
    refused: list[str] = []
    dataset = datasets.read_as(recipe, refused.append)
    datasets.check_labels(dataset, refused.append)
    path = run_folder.create(out)
    files = [dataset.root / example.file for example in dataset.examples]
    records = file_scan.survey(files)
    groups = near_duplicates.groups(records)
    found = findings.find(dataset, records, groups, refused, recipe.valid, recipe.seed)
    earlier = quarantine.read(Path(recipe.quarantine)) if recipe.quarantine else {}
    left_out = earlier | found.quarantine
    write_atomically(path / INSPECTION_FILE, json.dumps(asdict(found), indent=2).encode())
    quarantine.write(path / QUARANTINE_FILE, left_out)
    _show("\n".join(_report(recipe.data, found)))
    _show_pictures(path, dataset, found, recipe)
    print(f"\nwrote {path}: {INSPECTION_FILE}, {QUARANTINE_FILE}, {SHEET_FILE}")
    _show(_next(recipe, found, path / QUARANTINE_FILE if left_out else None))
    return path


def _report(name: str, found: Findings) -> Iterator[str]:
    yield (
        f"{name}: {found.images} images, {len(found.labels)} labels, {found.task}-label;"
        f" train would take {found.trained} to train on and hold out {found.held_out}"
    )
    yield from _labels(found)
    yield from found.notes
    yield "\nFiles"
    yield from _listed("cannot be used", [f"{f}: {why}" for f, why in found.bad.items()])
    lies = [f"{file} is a {form}" for file, form in found.extensions_that_lie.items()]
    yield from _listed("have an extension that lies; they are read by content", lies)
    turned = [f"{file} ({_EXIF_TURNS[turn]})" for file, turn in found.turned.items()]
    yield from _listed("are turned by EXIF; they are put upright", turned)
    yield f"  formats: {_counts(found.formats)}; modes: {_counts(found.modes)}"
    if found.widths_px:
        least, median, most = zip(found.widths_px, found.heights_px, strict=True)
        yield (
            f"  width and height, each: smallest {_by(least)}, median {_by(median)},"
            f" largest {_by(most)} pixels"
        )
    yield "\nDuplicates"
    yield from _grouped("groups of exact duplicates", found.duplicates)
    if found.duplicates:
        yield from _grouped("of them with different labels", found.duplicates_of_other_labels)
    yield from _grouped("groups of near-duplicates", found.near_duplicates)
    if found.near_duplicates:
        yield from _grouped("of them with different labels", found.near_duplicates_of_other_labels)
    if found.split_is_given:
        yield from _grouped("leaks: the same bytes on both sides of the given split", found.leaks)
        yield from _grouped("near-duplicates on both sides of the given split", found.near_leaks)
    else:
        yield "  the split keeps the images of a group together"
    if found.refused:
        yield "\ntrain would refuse this:"
        yield from (f"  {reason}" for reason in found.refused)


def _labels(found: Findings) -> Iterator[str]:
    """The labels with most and fewest images, or all where they are few."""
    yield "\nLabels, images of each"
    counts = list(found.labels.items())
    shown = counts if len(counts) <= 2 * _SHOWN + 2 else [*counts[:_SHOWN], *counts[-_SHOWN:]]
    width = max((len(label) for label, _ in shown), default=0)
    for number, (label, count) in enumerate(shown):
        if len(shown) < len(counts) and number == _SHOWN:
            yield f"  … {len(counts) - len(shown)} more in {INSPECTION_FILE}"
        yield f"  {label:{width}} {count:6}"
    if found.unlabelled:
        yield f"  {found.unlabelled} images have no label"
    yield from _listed(f"labels have fewer than {FEW} images", found.few)


def _listed(what: str, entries: Collection[str]) -> Iterator[str]:
    yield f"  {len(entries)} {what}{':' if entries else ''}"
    shown = list(entries)[:_SHOWN]
    yield from (f"    {entry}" for entry in shown)
    if len(entries) > len(shown):
        yield f"    … {len(entries) - len(shown)} more in {INSPECTION_FILE}"


def _grouped(what: str, groups: list[list[str]]) -> Iterator[str]:
    entries = []
    for files in groups:
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        entries.append(", ".join(files[:3]) + more)
    yield from _listed(what, entries)


def _show_pictures(path: Path, dataset: Dataset, found: Findings, recipe: Recipe) -> None:
    """The contact sheet, and the chain of transforms of its first image."""
    usable = [example for example in dataset.examples if example.file not in found.bad]
    if not usable:
        print("\nno image can be used: there is no contact sheet")
        return
    chosen = contact_sheet.choose(usable)
    sheet = contact_sheet.draw_sheet(dataset.root, chosen, recipe)
    sheet.save(path / SHEET_FILE, quality=90)
    first = dataset.root / chosen[0].file
    _show(f"\nFrom file to scores: {chosen[0].file}, {recipe.arch} at {recipe.image_size} px")
    for name, outcome in transform_trace.steps(
        first, recipe, dataset.task, max(1, len(dataset.labels))
    ):
        print(f"  {name:11} {outcome}")


def _next(recipe: Recipe, found: Findings, listed: Path | None) -> str:
    if found.refused:
        return "next: mend what train would refuse, and inspect again"
    words = data_words(recipe)
    if listed is not None:
        words += f" --quarantine {shlex.quote(str(listed))}"
    return f"next: python -m training train {words}"


def _counts(values: dict[str, int]) -> str:
    return ", ".join(f"{count} {value}" for value, count in values.items()) or "none"


def _by(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))


def _show(text: str) -> None:
    """Print names that are no Unicode, too."""
    print(text.encode(errors="backslashreplace").decode())
