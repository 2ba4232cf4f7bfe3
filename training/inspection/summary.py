"""The findings of an inspection as text for a terminal."""

from collections.abc import Collection, Iterator

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
        f"{name}: {found.images} images, {len(found.labels)} labels, {found.task}-label;"
        f" train would use {found.training_images} for training and {found.validation_images} for"
        " validation"
    )
    yield from _labels(found)
    yield from found.notes
    yield "\nFiles"
    yield from _listed("cannot be used", [f"{f}: {why}" for f, why in found.bad.items()])
    wrong = [f"{file} is a {form}" for file, form in found.extensions_that_lie.items()]
    yield from _listed("have the wrong extension; they are read by content", wrong)
    turned = [f"{file} ({_EXIF[orientation]})" for file, orientation in found.turned.items()]
    yield from _listed("are not upright by their EXIF; they are turned upright", turned)
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


def _counts(values: dict[str, int]) -> str:
    return ", ".join(f"{count} {value}" for value, count in values.items()) or "none"


def _by(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))
