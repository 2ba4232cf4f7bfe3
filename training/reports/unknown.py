"""The report's part on novelty: what is called unknown, and how large sets of labels are."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import conformal
from models.decision import rank
from models.manifest import Metric
from training.evaluation import promises
from training.evaluation.evaluate import Evaluation
from training.evaluation.strangers import Strangers
from training.reports import activation_maps

ALPHAS = (conformal.ALPHA, 0.05)
_SHOWN = 8  # pictures of each kind


def section(evaluation: Evaluation, strangers: Strangers | None) -> dict[str, Any] | None:
    """The values for the template; None for a model without novelty."""
    judged = evaluation.judged
    if judged is None:
        return None
    rows = [
        {
            "alpha": alpha,
            "own": promises.unknown(judged.p_values, alpha),
            "strangers": strangers and promises.unknown(strangers.p_values, alpha),
        }
        for alpha in ALPHAS
    ]
    return {
        "rows": rows,
        "sets": promises.label_sets(evaluation.scores, evaluation.targets, judged),
        "least_alpha": conformal.least_alpha(judged.held_out),
        "galleries": [*_strangers(evaluation, strangers), *_own(evaluation, judged.p_values)],
    }


def share(metric: Metric) -> str:
    """`1.2 % [0.6 %, 2.1 %]`."""
    return f"{metric.value:.1%} [{metric.low:.1%}, {metric.high:.1%}]"


def _strangers(evaluation: Evaluation, strangers: Strangers | None) -> list[dict[str, Any]]:
    if strangers is None:
        return []
    order = np.argsort(strangers.p_values, kind="stable").tolist()
    missed = order[::-1][:_SHOWN]
    found = [row for row in order if row not in missed][:_SHOWN]

    def pictures(rows: list[int]) -> list[dict[str, Any]]:
        return [
            _picture(
                strangers.files[row],
                strangers.images[row],
                strangers.p_values[row],
                _likeliest(evaluation, strangers.scores[row]),
            )
            for row in rows
        ]

    return [
        {
            "words": "The strangers that look most like its own images.",
            "pictures": pictures(missed),
        },
        {"words": "The strangest ones.", "pictures": pictures(found)},
    ]


def _own(evaluation: Evaluation, p_values: NDArray[np.float64]) -> list[dict[str, Any]]:
    rows = np.argsort(p_values, kind="stable")[:_SHOWN].tolist()
    images = evaluation.images_at(rows)
    pictures = [
        _picture(
            evaluation.records[row].file,
            image,
            p_values[row],
            _likeliest(evaluation, evaluation.scores[row]),
        )
        for row, image in zip(rows, images, strict=True)
    ]
    words = (
        "The strangest of the images that it was evaluated on: wrong files are often among them."
    )
    return [{"words": words, "pictures": pictures}]


def _picture(
    file: str, image: NDArray[np.uint8], p_value: float, likeliest: tuple[str, float]
) -> dict[str, Any]:
    label, score = likeliest
    return {
        "file": file,
        "image": activation_maps.base64_of(image),
        "p_value": float(p_value),
        "label": label,
        "score": score,
    }


def _likeliest(evaluation: Evaluation, scores: NDArray[np.float32]) -> tuple[str, float]:
    first = int(rank(scores)[0])
    return evaluation.labels[first], float(scores[first])
