"""The findings of an inspection as text for a terminal."""

from collections.abc import Collection, Iterator

from models.wording import counted
from training.data import unused
from training.inspection.findings import FEW, Findings

INSPECTION_FILE = "inspection.json"
_SHOWN = 5  # of each kind; the rest is in inspection.json
_EXIF = {  # orientation, as stored
    2: "mirrored",
    3: "upside down",
    4: "mirrored, upside down",
    5: "mirrored, on its side",
    6: "on its side",
    7: "mirrored, on its side",
    8: "on its side",
}


def lines(name: str, found: Findings) -> Iterator[str]:
    yield (
        f"{name}: {counted(found.images, 'image')}, {counted(len(found.labels), 'label')},"
        f" {found.task}-label; train would use {found.training_images} for training and"
        f" {found.validation_images} for validation"
    )
    yield from _labels(found)
    yield from found.notes
    yield "\nFiles"
    bad = [f"{file}: {why}" for file, why in found.bad.items()]
    yield from _listed(f"{counted(len(bad), 'image')} cannot be used", bad)
    yield from _listed(unused.described(found.unused, found.strays), found.unused)
    wrong = [f"{file} is {form}" for file, form in found.extensions_that_lie.items()]
    yield from _listed(f"{counted(len(wrong), 'wrong extension')}; read by content", wrong)
    turned = [f"{file} ({_EXIF[orientation]})" for file, orientation in found.turned.items()]
    images = counted(len(turned), "image")
    yield from _listed(f"{images} not upright according to EXIF; turned upright", turned)
    yield f"  formats: {_counts(found.formats)}; modes: {_counts(found.modes)}"
    if found.widths_px:
        least, median, most = zip(found.widths_px, found.heights_px, strict=True)
        yield (
            f"  width and height, each: smallest {_by(least)}, median {_by(median)},"
            f" largest {_by(most)} pixels"
        )
    yield "\nDuplicates"
    yield from _groups("of exact duplicates", found.duplicates)
    if found.duplicates:
        yield from _of_other_labels(found.duplicates_of_other_labels)
    yield from _groups("of near-duplicates", found.near_duplicates)
    if found.near_duplicates:
        yield from _of_other_labels(found.near_duplicates_of_other_labels)
    if found.split_is_given:
        leaks = counted(len(found.leaks), "leak")
        same = f"{leaks}: the same bytes on both sides of the given split"
        yield from _listed(same, _shortened(found.leaks))
        yield from _groups("of near-duplicates on both sides of the given split", found.near_leaks)
    else:
        yield "  the split keeps the images of a group together"
    if found.refused:
        yield "\ntrain would refuse this:"
        yield from (f"  {reason}" for reason in found.refused)


def _labels(found: Findings) -> Iterator[str]:
    """The labels with the most and the fewest images, or all of them if there are few."""
    yield "\nImages of each label"
    counts = list(found.labels.items())
    shown = counts if len(counts) <= 2 * _SHOWN + 2 else [*counts[:_SHOWN], *counts[-_SHOWN:]]
    width = max((len(label) for label, _ in shown), default=0)
    for number, (label, count) in enumerate(shown):
        if len(shown) < len(counts) and number == _SHOWN:
            yield f"  … {len(counts) - len(shown)} more in {INSPECTION_FILE}"
        yield f"  {label:{width}} {count:6}"
    if found.unlabelled:
        yield f"  {counted(found.unlabelled, 'image')} without a label"
    few = counted(len(found.few), "label")
    yield from _listed(f"{few} with fewer than {FEW} images", found.few)


def _listed(what: str, entries: Collection[str]) -> Iterator[str]:
    yield f"  {what}{':' if entries else ''}"
    shown = list(entries)[:_SHOWN]
    yield from (f"    {entry}" for entry in shown)
    if len(entries) > len(shown):
        yield f"    … {len(entries) - len(shown)} more in {INSPECTION_FILE}"


def _groups(what: str, groups: list[list[str]]) -> Iterator[str]:
    yield from _listed(f"{counted(len(groups), 'group')} {what}", _shortened(groups))


def _of_other_labels(groups: list[list[str]]) -> Iterator[str]:
    yield from _listed(f"{len(groups)} of them with different labels", _shortened(groups))


def _shortened(groups: list[list[str]]) -> list[str]:
    shown = []
    for files in groups:
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        shown.append(", ".join(files[:3]) + more)
    return shown


def _counts(values: dict[str, int]) -> str:
    return ", ".join(f"{count} {value}" for value, count in values.items()) or "none"


def _by(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))
