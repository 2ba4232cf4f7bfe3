"""`inspect`: audit DATA before training.

inspection.json    all findings, with every file by name
quarantine.csv     files to leave out (file, reason), for `train --quarantine`
contact_sheet.jpg  a few images as served and as trained on

of images that the service captured

guesses.csv        what it answered (file, given, suggested, sure), the least sure first
guesses.html       a page to correct it, which writes lists for `--correct` and `--quarantine`

and with --labels

suspects.csv       labels that are probably wrong (file, given, suggested, sure), the surest first:
                   for `train --correct` or `train --quarantine`
suspects.html      a page to look through them, which writes such lists
"""

import json
import shlex
from dataclasses import asdict, replace
from pathlib import Path

from models.bundle import write_atomically
from training import run_folder
from training.data import corrections, datasets, file_scan, near_duplicates, quarantine
from training.data.contents import Contents
from training.data.datasets import Dataset
from training.hardware import pick_device
from training.inspection import (
    contact_sheet,
    findings,
    guesses,
    review_page,
    summary,
    suspects,
    transform_trace,
)
from training.inspection.findings import Findings
from training.inspection.summary import INSPECTION_FILE
from training.recipe import Recipe, data_arguments

QUARANTINE_FILE = run_folder.QUARANTINE_FILE
SHEET_FILE = "contact_sheet.jpg"
SUSPECTS_FILE = "suspects.csv"
PAGE_FILE = "suspects.html"
GUESSES_FILE = "guesses.csv"
GUESSES_PAGE_FILE = "guesses.html"


def inspect(recipe: Recipe, out: Path | None, labels: bool = False) -> Path:
    """Inspect DATA, print the findings and write them to `out`; returns that folder.

    labels: also look for labels that are probably wrong.

    What `train` refuses is a finding here. Raises DataError only if there are no images to
    inspect, RunError if `out` is in use, RecipeError if there are no weights for `labels`.
    """
    refused: list[str] = []
    dataset = datasets.read_as(recipe, refused.append)
    datasets.check_labels(dataset, refused.append)
    path = run_folder.create(out)
    every = (*dataset.records, *dataset.test)
    grouped = near_duplicates.group(file_scan.scan(dataset.root, every, Contents(room_bytes=0)))
    split_at = len(dataset.records)
    dataset = replace(dataset, records=tuple(grouped[:split_at]), test=tuple(grouped[split_at:]))
    found = findings.find(dataset, refused, recipe.valid, recipe.seed)
    earlier = quarantine.read(Path(recipe.quarantine)) if recipe.quarantine else {}
    left_out = earlier | found.quarantine
    write_atomically(path / INSPECTION_FILE, json.dumps(asdict(found), indent=2).encode())
    quarantine.write(path / QUARANTINE_FILE, left_out)
    _show("\n".join(summary.lines(recipe.data_name, found)))
    _show_images(path, dataset, found, recipe)
    print(f"\nwrote {path}: {INSPECTION_FILE}, {QUARANTINE_FILE}, {SHEET_FILE}")
    _show_guesses(path, dataset, recipe, left_out)
    if labels:
        _show_suspects(path, dataset, found, recipe, left_out)
    _show(_next(recipe, found, path / QUARANTINE_FILE if left_out else None))
    return path


def _show_images(path: Path, dataset: Dataset, found: Findings, recipe: Recipe) -> None:
    """Write the contact sheet, and print the transforms of its first image."""
    usable = [record for record in dataset.records if record.scan.error is None]
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


def _show_guesses(path: Path, dataset: Dataset, recipe: Recipe, left_out: dict[str, str]) -> None:
    """Write the answers about captured images and the page about them, if there are any."""
    usable = [r for r in dataset.records if r.guess and r.file not in left_out]
    labels = sorted({*dataset.labels, *corrections.named(recipe.new_labels)})
    listed = guesses.find(usable, labels, dataset.task)
    if not listed:
        return
    corrections.write(path / GUESSES_FILE, listed)
    review_page.write(
        path / GUESSES_PAGE_FILE,
        review_page.Words(f"Captured images in {recipe.data_name}", "The least sure", GUESSES_FILE),
        dataset.root,
        usable,
        listed,
        labels,
        left_out,
    )
    print(
        f"wrote {path}: {GUESSES_FILE}, {GUESSES_PAGE_FILE}; captured images have the labels that"
        " the model guessed: correct them on the page, in a browser, and train with its lists"
    )


def _show_suspects(
    path: Path, dataset: Dataset, found: Findings, recipe: Recipe, left_out: dict[str, str]
) -> None:
    """Write the list of suspect labels and the page about it, and print the surest."""
    if found.refused:
        print("\nlabels are not judged before what train would refuse is fixed")
        return
    usable = [record for record in dataset.records if record.scan.error is None]
    device = pick_device(recipe.device)
    judged = suspects.find(dataset.root, usable, dataset.labels, dataset.task, recipe, device)
    listed = judged.corrections
    corrections.write(path / SUSPECTS_FILE, listed)
    review_page.write(
        path / PAGE_FILE,
        review_page.Words(f"Suspect labels of {recipe.data_name}", "The surest", SUSPECTS_FILE),
        dataset.root,
        usable,
        listed,
        dataset.labels,
        left_out,
    )
    _show("\n".join(suspects.lines(judged)))
    print(
        f"wrote {path}: {SUSPECTS_FILE}, {PAGE_FILE}; look through the page in a browser and train"
        f" with the lists that it writes, or with --correct {path / SUSPECTS_FILE} (take every"
        f" suggestion) or --quarantine {path / SUSPECTS_FILE} (leave all of them out)"
    )


def _next(recipe: Recipe, found: Findings, listed: Path | None) -> str:
    if found.refused:
        return "next: fix what train would refuse, and inspect again"
    arguments = data_arguments(recipe)
    if listed is not None:
        arguments += f" --quarantine {shlex.quote(str(listed))}"
    return f"next: python -m training train {arguments}"


def _show(text: str) -> None:
    """Print text that may have file names which are not Unicode."""
    print(text.encode(errors="backslashreplace").decode())
