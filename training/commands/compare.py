"""`compare`: finished runs side by side, each against the first."""

from collections.abc import Sequence
from pathlib import Path

from models.wording import counted, some
from training import run_folder
from training.hardware import pick_device
from training.recipe import Device
from training.run_folder import Run
from training.side_by_side import contrast, differences, held_out, page, verdict
from training.side_by_side.contrast import Contrast


def compare(
    runs: Sequence[Run], data: Sequence[str] | None, device: Device, out: Path | None
) -> Path:
    """Write comparison.html to `out`, print the verdicts, and return that folder.

    data: where the images of the first run are now, if they were moved.
    """
    found = held_out.find(runs)
    path = run_folder.create(out)
    place = pick_device(device)
    evaluations = contrast.judge(runs, found, data, place)
    contrasts = contrast.contrasts(runs, evaluations)
    page.write(path / page.PAGE_FILE, runs, found, evaluations, contrasts, place)
    images = len(found.records)
    for one in contrasts:
        found_of = verdict.of(one, images, len(contrasts))
        print(f"{found_of.headline}\n{found_of.certainty}")
        print(_table(one))
        print("".join(f"{line}\n" for line in _labels(one)), end="")
    for note in page.notes(runs, found):
        print(note)
    for words, values in differences.of(runs):
        print(f"{words}: {' | '.join(values)}")
    print(f"{counted(images, 'image')} compared; wrote {path / page.PAGE_FILE}")
    return path


def _table(found: Contrast) -> str:
    """Both runs' figures and the paired difference as text, a line each."""
    width = max(map(len, found.figures)) + 2
    return "\n".join(
        f"  {name:{width}}{figure.released:.4f} -> {figure.candidate:.4f}   {figure.value:+.4f}"
        f"   [{figure.low:+.4f}, {figure.high:+.4f}]  {contrast.direction(name, figure)}".rstrip()
        for name, figure in found.figures.items()
    )


def _labels(found: Contrast) -> list[str]:
    return [
        f"{which} by more than chance on {some([row.label for row in rows])}"
        for which, rows in (("worse", found.worse), ("better", found.better))
        if rows
    ]
