"""`comparison.html`: runs side by side on one page, images included."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from markupsafe import Markup
from numpy.typing import NDArray

from models.bundle import write_atomically
from models.wording import counted, some
from training import run_folder
from training.evaluation import error_analysis, scorer
from training.evaluation.evaluate import Evaluation
from training.reports import activation_maps, html_report, plots
from training.reports.html_report import MEANINGS
from training.run_folder import Run
from training.side_by_side import differences, verdict
from training.side_by_side.contrast import Contrast, direction
from training.side_by_side.held_out import HeldOut

PAGE_FILE = "comparison.html"
_TEMPLATE = "comparison.html"
_IMAGES = 12  # of each kind
_SEEDS = (
    "The intervals say how much the choice of images matters. How much another --seed of the"
    " training would change, they do not say."
)


def write(
    path: Path,
    runs: Sequence[Run],
    held_out: HeldOut,
    evaluations: Sequence[Evaluation],
    contrasts: Sequence[Contrast],
    device: torch.device,
) -> None:
    """Write the page, which needs no other file, to `path`. Runs, evaluations: the first, then
    those that the contrasts are of. Raises RunError if a run's `metrics.jsonl` is missing."""
    names = [str(run.path) for run in runs]
    images = len(held_out.records)
    page = (
        html_report.pages()
        .get_template(_TEMPLATE)
        .render(
            names=names,
            images=counted(images, "image"),
            verdicts=[verdict.of(found, images, len(contrasts)) for found in contrasts],
            notes=notes(runs, held_out),
            curves=Markup(
                plots.histories({str(r.path): run_folder.read_epochs(r.path) for r in runs})
            ),
            differ=any(held_out.only),
            differences=differences.of(runs),
            contrasts=[
                _shown(found, (runs[0], run), (evaluations[0], evaluation), device)
                for found, run, evaluation in zip(contrasts, runs[1:], evaluations[1:], strict=True)
            ],
        )
    )
    write_atomically(path, page.encode())


def notes(runs: Sequence[Run], held_out: HeldOut) -> list[str]:
    """What the intervals do not say; what was left out, and why."""
    found = [
        f"{counted(count, 'validation image')} of {run.path} left out, which another run was"
        " trained on or does not have."
        for run, count in zip(runs, held_out.only, strict=True)
        if count
    ]
    if held_out.relabelled:
        files = [record.file for record in held_out.relabelled]
        found.append(
            f"{counted(len(files), 'image')} left out, whose labels differ between the runs:"
            f" {some(files, 3)}."
        )
    return [*found, _SEEDS]


def _shown(
    found: Contrast,
    runs: tuple[Run, Run],
    evaluations: tuple[Evaluation, Evaluation],
    device: torch.device,
) -> dict[str, Any]:
    labels = [
        *(
            {"direction": "worse", "label": row.label, "lost": row.lost, "won": row.won, "p": row.p}
            for row in found.worse
        ),
        *(  # here it is the first run that lost
            {
                "direction": "better",
                "label": row.label,
                "lost": row.won,
                "won": row.lost,
                "p": row.p,
            }
            for row in found.better
        ),
    ]
    return {
        "name": found.name,
        "figures": [
            {
                "words": MEANINGS[name][0],
                "meaning": MEANINGS[name][1],
                "figure": figure,
                "direction": direction(name, figure),
            }
            for name, figure in found.figures.items()
        ],
        "labels": labels,
        "groups": [
            _group(found.won, found.name, found.first, runs[0], evaluations, 0, device),
            _group(found.lost, found.first, found.name, runs[1], evaluations, 1, device),
        ],
    }


def _group(
    rows: Sequence[int],
    right: str,
    wrong: str,
    run: Run,
    evaluations: tuple[Evaluation, Evaluation],
    which: int,
    device: torch.device,
) -> dict[str, Any]:
    """The images that `wrong`, the run, gets wrong; `which`: its place in `evaluations`."""
    own = evaluations[which]
    words = f"{counted(len(rows), 'image')}: {right} is right, {wrong} wrong"
    if own.task == "multi":
        words = f"{counted(len(rows), 'image')}: {right} has more labels right than {wrong}"
    chosen = list(rows)
    worst = error_analysis.top_losses(
        own.scores[chosen], own.predicted[chosen], own.targets[chosen], own.task, _IMAGES
    )
    if not worst:
        return {"words": words, "images": []}
    places = [chosen[mistake.row] for mistake in worst]
    images = own.images_at(places)
    maps = scorer.of_run(run, device).maps
    assert maps is not None  # a network's own
    of_images = maps(images)
    return {
        "words": words,
        "images": [
            {
                "file": own.records[place].file,
                "image": activation_maps.base64_of(images[number]),
                "overlay": activation_maps.base64_of(
                    activation_maps.of_mistake(images[number], of_images[number], mistake)
                ),
                "lines": _lines(place, evaluations, (right, wrong) if which else (wrong, right)),
            }
            for number, (place, mistake) in enumerate(zip(places, worst, strict=True))
        ],
    }


def _lines(
    row: int, evaluations: tuple[Evaluation, Evaluation], names: tuple[str, str]
) -> list[dict[str, Any]]:
    """The true labels, and those that each run predicts, with its score if it is only one."""
    first = evaluations[0]
    lines: list[dict[str, Any]] = [
        {"words": "true", "label": _named(first, first.targets[row]), "score": None}
    ]
    for evaluation, name in zip(evaluations, names, strict=True):
        predicted = evaluation.predicted[row]
        single = evaluation.task == "single"
        score = float(evaluation.scores[row][predicted][0]) if single else None
        lines.append({"words": f"{name}:", "label": _named(evaluation, predicted), "score": score})
    return lines


def _named(evaluation: Evaluation, which: NDArray[Any]) -> str:
    return ", ".join(evaluation.labels[c] for c in which.nonzero()[0].tolist()) or "no tags"
