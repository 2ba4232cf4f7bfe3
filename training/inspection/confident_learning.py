"""Which labels are probably wrong, by scores from models that did not see them.

Confident learning: Northcutt, Jiang and Chuang, Journal of Artificial Intelligence Research 70
(2021). A model is surer of some labels than of others, so a score counts as confident if it is at
least the mean score of the images that have the label.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.manifest import Task

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Issue:
    """A label that is probably wrong. row: of the image. given, suggested: columns, None for none.

    sure: 1 minus the score of what is given.
    """

    row: int
    given: int | None
    suggested: int | None
    sure: float


def find(scores: Scores, targets: NDArray[np.bool_], task: Task) -> list[Issue]:
    """The issues, the surest first. scores `[N, C]`, NaN where not known; targets `[N, C]`.

    In a multi-label task every label is a task of its own, to have it or not.
    """
    found = _of_one_label(scores, targets) if task == "single" else _of_each(scores, targets)
    return sorted(found, key=lambda issue: (-issue.sure, issue.row))


def confident(scores: Scores, given: NDArray[np.int64]) -> NDArray[np.int64]:
    """The column of each image's confident label `[N]`, -1 if there is none.

    scores `[N, K]` without NaN; given `[N]`: columns, -1 for an image that sets no threshold. The
    confident joint's definition: of the labels j with a score of at least t_j, the likeliest; t_j
    is the mean score for j of the images given j.
    """
    images = np.maximum(np.bincount(given[given >= 0], minlength=scores.shape[1]), 1)
    own = np.eye(scores.shape[1])[given] * (given >= 0)[:, None]
    thresholds = np.where(own.any(0), (scores * own).sum(0) / images, np.inf)
    reached = np.where(scores >= thresholds, scores, -1)
    return np.where(reached.max(1) >= 0, reached.argmax(1), -1)


def _of_one_label(scores: Scores, targets: NDArray[np.bool_]) -> list[Issue]:
    """As many images as are confident of another label: the least likely to be what is given.

    Those least likely ones are a better choice than the confident ones themselves: 97 instead of
    69 % of the labels flipped at random in Caltech-101, with as many suspects.
    """
    given = targets.argmax(1)
    rows = np.arange(len(given))
    known = ~np.isnan(scores[rows, given])
    filled = np.nan_to_num(scores, nan=0.0)
    own, likeliest = filled[rows, given], filled.argmax(1)
    other = known & (likeliest != given)
    chosen = confident(filled, np.where(known, given, -1))
    count = int((other & (chosen >= 0) & (chosen != given)).sum())
    least = np.argsort(np.where(other, own, np.inf), kind="stable")[:count]
    return [
        Issue(row, int(given[row]), int(likeliest[row]), 1 - float(own[row]))
        for row in least.tolist()
    ]


def _of_each(scores: Scores, targets: NDArray[np.bool_]) -> list[Issue]:
    issues = []
    for column, (having, given) in enumerate(zip(scores.T, targets.T, strict=True)):
        known = np.flatnonzero(~np.isnan(having))
        both = np.stack([1 - having[known], having[known]], 1)
        own = given[known].astype(np.int64)
        chosen, likeliest = confident(both, own), both.argmax(1)
        wrong = (chosen >= 0) & (chosen != own) & (likeliest != own)
        for place in np.flatnonzero(wrong).tolist():
            has, sure = bool(own[place]), 1 - float(both[place, own[place]])
            given_column, suggested = (column, None) if has else (None, column)
            issues.append(Issue(int(known[place]), given_column, suggested, sure))
    return issues
