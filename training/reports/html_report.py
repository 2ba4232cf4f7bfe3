"""`report.html`: one page, images included, that shows how good a model is and where it errs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from models.bundle import write_atomically
from models.manifest import Metric, Provenance, Task
from models.wording import counted
from training.evaluation import error_analysis
from training.evaluation.decisions import calibration_pairs
from training.evaluation.error_analysis import Mistake
from training.evaluation.evaluate import Evaluation
from training.evaluation.scorer import Scorer
from training.evaluation.strangers import Strangers
from training.recipe import name_of
from training.reports import activation_maps, plots, summary, unknown
from training.run_folder import Epoch

_TEMPLATE = "report.html"
_MISTAKES = 24
_CONFUSED = 15
_LABEL_CURVES = 40
MEANINGS = {
    "error": ("error", "share of images whose likeliest label is wrong"),
    "top5_error": ("top-5 error", "share of images whose label is not among the five likeliest"),
    "map": (
        "mean average precision",
        "how well scores rank each label's images above the others; no threshold",
    ),
    "micro_f1": ("micro F1", "precision and recall over all tags, at the thresholds"),
    "macro_f1": ("macro F1", "mean of each label's F1: rare labels count as much as frequent ones"),
    "accuracy_multi": ("accuracy of pairs", "share of image-label pairs predicted correctly"),
    "accuracy_all_negative": ("… without any tag", "the same if no tag were ever predicted"),
    "nll": ("negative log-likelihood", "nats; punishes confident mistakes"),
    "rms_calibration_error": (
        "calibration error",
        "how far probabilities are from how often they come true: root mean square, minus what"
        " chance adds",
    ),
    "rms_calibration_error_uncalibrated": (
        "… before calibration",
        "the same without the fitted temperature",
    ),
}


@dataclass(frozen=True)
class History:
    """How a run was trained: its epochs; each step's learning rate of the head, and its loss."""

    epochs: Sequence[Epoch]
    steps: Sequence[tuple[float, float]]


def write(
    path: Path,
    model: Scorer,
    evaluation: Evaluation,
    measured: dict[str, Metric],
    history: History | None = None,
    strangers: Strangers | None = None,
) -> None:
    """Write the page, which needs no other file, to `path`. strangers: shown beside its own images,
    if the model has novelty.
    """
    unknown_part = unknown.section(evaluation, strangers)
    epochs = history.epochs if history else ()
    best_kept = bool(model.provenance.recipe.get("early_stop"))
    page = (
        pages()
        .get_template(_TEMPLATE)
        .render(
            name=model.name,
            images=counted(len(evaluation.records), "image"),
            verdict=summary.of(evaluation, measured, epochs, best_kept),
            metrics=[
                {"words": MEANINGS[name][0], "meaning": MEANINGS[name][1], "metric": metric}
                for name, metric in measured.items()
            ],
            **_curves(history),
            **_labels(evaluation, measured),
            **_calibration(evaluation),
            mistakes=_mistakes(evaluation, model),
            origin=_origin(model.provenance),
            unknown=unknown_part,
            sections=_sections(evaluation.task, history, unknown_part is not None),
        )
    )
    write_atomically(path, page.encode())


def pages() -> Environment:
    """The templates of the pages that people read."""
    environment = Environment(
        loader=PackageLoader("training.reports"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["interval"] = unknown.share
    environment.filters["share"] = lambda share: "–" if share is None else f"{share:.3f}"
    return environment


def _sections(task: Task, history: History | None, novelty: bool) -> list[tuple[str, str]]:
    return [
        ("metrics", "Metrics"),
        *([("curves", "Training curves")] if history else []),
        ("labels", "Confusion matrix" if task == "single" else "Labels and thresholds"),
        ("calibration", "Calibration"),
        *([("unknown", "Unknown images")] if novelty else []),
        ("mistakes", "Worst mistakes"),
        ("origin", "Provenance"),
    ]


def _curves(history: History | None) -> dict[str, Any]:
    if history is None:
        return {"curves": None, "epochs": ()}
    learning_rates, losses = zip(*history.steps, strict=True)
    return {
        "curves": Markup(plots.curves(learning_rates, losses, history.epochs)),
        "epochs": history.epochs,
    }


def _labels(evaluation: Evaluation, measured: dict[str, Metric]) -> dict[str, Any]:
    labels = evaluation.labels
    table = evaluation.by_label
    found: dict[str, Any] = dict.fromkeys(("confusion", "confused", "label_curves", "sweep"))
    if evaluation.task == "single":
        matrix = error_analysis.confusion(evaluation.predicted, evaluation.targets)
        found["confusion"] = Markup(plots.confusion(matrix, labels))
        found["confused"] = error_analysis.most_confused(matrix, labels, min_count=2)[:_CONFUSED]
        shown = sorted(table, key=lambda row: 1 if row.recall is None else row.recall)
    else:
        precisions = [1 if r.average_precision is None else r.average_precision for r in table]
        order = sorted(range(len(table)), key=precisions.__getitem__)
        shown = [table[column] for column in order]
        worst = [column for column in order if table[column].images][:_LABEL_CURVES]
        found["label_curves"] = Markup(
            plots.precision_recall(evaluation.scores, evaluation.targets, table, worst)
        )
        sweep = error_analysis.sweep(evaluation.scores, evaluation.targets)
        without_tags = measured["accuracy_all_negative"].value
        found["sweep"] = Markup(plots.sweep(sweep, without_tags))
    return {**found, "labels": shown}


def _calibration(evaluation: Evaluation) -> dict[str, Any]:
    task, targets = evaluation.task, evaluation.targets
    before = calibration_pairs(task, evaluation.uncalibrated, targets)
    shipped = calibration_pairs(task, evaluation.scores, targets)
    whose = "the likeliest label" if task == "single" else "every label"
    return {
        "calibration": Markup(plots.calibration(before, shipped)),
        "calibration_words": f"The predicted probability of {whose}, in 15 bins, and how often it"
        " came true. On the diagonal, 80 % means 80 %.",
    }


def _mistakes(evaluation: Evaluation, model: Scorer) -> list[dict[str, Any]]:
    worst = error_analysis.top_losses(
        evaluation.scores, evaluation.predicted, evaluation.targets, evaluation.task, _MISTAKES
    )
    if not worst:
        return []
    images = evaluation.images_at([mistake.row for mistake in worst])
    maps = model.maps(images) if model.maps else None
    return [
        {
            "file": evaluation.records[mistake.row].file,
            "image": activation_maps.base64_of(image),
            "overlay": maps is not None
            and activation_maps.base64_of(activation_maps.of_mistake(image, maps[number], mistake)),
            "lines": _lines(mistake, evaluation),
        }
        for number, (mistake, image) in enumerate(zip(worst, images, strict=True))
    ]


def _lines(mistake: Mistake, evaluation: Evaluation) -> list[dict[str, Any]]:
    row, labels = mistake.row, evaluation.labels
    single = evaluation.task == "single"
    explained = [
        ("predicted" if single else "wrong tag", mistake.predicted),
        ("true" if single else "missing tag", mistake.true),
    ]
    lines: list[dict[str, Any]] = [
        {"words": words, "label": labels[label], "score": float(evaluation.scores[row, label])}
        for words, label in explained
        if label is not None
    ]
    if not single:
        for words, which in (("true", evaluation.targets), ("predicted", evaluation.predicted)):
            names = ", ".join(labels[label] for label in np.flatnonzero(which[row]).tolist())
            lines.append({"words": words, "label": names or "no tags", "score": None})
    return lines


def _origin(provenance: Provenance) -> list[tuple[str, str]]:
    recipe = provenance.recipe
    options = "  ".join(f"{name}={value}" for name, value in recipe.items() if value is not None)
    return [
        ("trained", provenance.created),
        ("data", f"{name_of(recipe['data'])}, fingerprint {provenance.data_fingerprint[:16]}"),
        ("initial weights", f"{provenance.weights} ({provenance.weights_licence})"),
        ("code", provenance.git_commit or "not under version control"),
        ("recipe", options),
        ("processor", provenance.processor),
        ("libraries", "  ".join(f"{k} {v}" for k, v in provenance.libraries.items())),
    ]
