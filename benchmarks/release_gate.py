"""How often the release gate is wrong: a simulation of models with a known true difference.

python -m benchmarks.release_gate [REPEATS]

Prints three tables. Error rates: the share of candidates that are released, by the number of
images, the share of images on which only one model is right, and the true difference. At or above
the margin (0.01) a release is false, and may happen in at most 5 % of cases. Mean average
precision: the same. Labels: the share of equally good candidates that are refused for a label.
"""

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from training.evaluation import comparison, metrics
from training.release import MARGIN

IMAGES = (300, 1_000, 3_000, 10_000)
DIFFERING = (0.03, 0.10)
DIFFERENCES = (-0.02, -0.01, 0.0, MARGIN, 0.02)
LABELS = (20, 101)
_SHARED, _OWN = 0.8, 0.35  # noise of the scores: shared by both models, and each one's own
_PREVALENCE = 0.1
_MAP_LABELS = 10

Random = np.random.Generator
Mask = NDArray[np.bool_]


def mistakes(random: Random, images: int, differing: float, difference: float) -> list[Mask]:
    """Masks of wrong predictions of candidate and released; a fifth of images are wrong in both."""
    lost, won = (differing + difference) / 2, (differing - difference) / 2
    kinds = random.choice(4, images, p=[0.2, lost, won, 0.8 - lost - won])
    return [(kinds == 0) | (kinds == own) for own in (1, 2)]


def released_by_error(random: Random, images: int, differing: float, difference: float) -> bool:
    pair = mistakes(random, images, differing, difference)
    return comparison.errors(*pair).high <= MARGIN


def scored(
    random: Random, images: int, strengths: tuple[float, float]
) -> tuple[list[NDArray[np.float32]], Mask]:
    """Scores of two models `[N, C]` with signals of the given strengths, and the targets."""
    targets = random.random((images, _MAP_LABELS)) < _PREVALENCE
    common = random.normal(0, _SHARED, targets.shape)
    return [
        (strength * targets + common + random.normal(0, _OWN, targets.shape)).astype(np.float32)
        for strength in strengths
    ], targets


def strength_for(difference: float) -> float:
    """The strength at which a candidate's 1 - mAP is worse by `difference` than at 2."""
    ones = np.ones((1, 200_000))

    def wrong(strength: float) -> float:
        (scores, _), targets = scored(np.random.default_rng(1), 200_000, (strength, strength))
        return 1 - float(metrics.mean_average_precision(scores, targets, ones)[0])

    goal, low, high = wrong(2.0) + difference, 1.0, 3.0
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if wrong(middle) > goal else (low, middle)
    return (low + high) / 2


def released_by_map(random: Random, images: int, strength: float) -> bool:
    (candidate, released), targets = scored(random, images, (strength, 2.0))
    return comparison.average_precisions(candidate, released, targets).high <= MARGIN


def refused_for_a_label(random: Random, images: int, labels: int) -> bool:
    """Whether a candidate that is equally good on all labels is found worse on any."""
    kinds = random.choice(3, (images, labels), p=[0.01, 0.01, 0.98])
    names = [str(label) for label in range(labels)]
    return bool(comparison.regressions(kinds == 0, kinds == 1, names))


def share(repeats: int, of: Callable[..., bool], *settings: object) -> str:
    found = [of(np.random.default_rng(seed), *settings) for seed in range(repeats)]
    return f"{np.mean(found):.1%}"


def main(repeats: int) -> None:
    heads = " | ".join(f"{d:+.0%}" for d in DIFFERENCES)
    print(f"Share released of {repeats} candidates, by how much worse they really are\n")
    print(f"| error: images | differing | {heads} |\n|{'---|' * (2 + len(DIFFERENCES))}")
    for images in IMAGES:
        for differing in DIFFERING:
            row = [share(repeats, released_by_error, images, differing, d) for d in DIFFERENCES]
            print(f"| {images:,} | {differing:.0%} | {' | '.join(row)} |", flush=True)
    few = max(repeats // 10, 20)
    strengths = [strength_for(difference) for difference in DIFFERENCES]
    print(f"\n| 1 - mAP: images | {heads} |\n|{'---|' * (1 + len(DIFFERENCES))}")
    for images in (300, 1_000):
        row = [share(few, released_by_map, images, strength) for strength in strengths]
        print(f"| {images:,} ({few} candidates) | {' | '.join(row)} |", flush=True)
    print("\n| labels | images | equally good candidates refused for a label |\n|---|---|---|")
    for labels in LABELS:
        print(
            f"| {labels} | 1,000 | {share(few, refused_for_a_label, 1_000, labels)} |", flush=True
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2_000)
