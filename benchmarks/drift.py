"""How often the drift alerts are wrong: a simulation of windows of images with known drift.

python -m benchmarks.drift [REPEATS]

Prints a table by the number of images in the window (n) and of validation images (m): how often
chance alone exceeds its bound, which should be once in a thousand windows, and how often the alert
fires at each true drift. Each repeat draws the shares of the labels, the validation images and the
window anew. Labels: one per image; tags: several per image, and correlated. "In tens" draws the
images of the window in groups of ten that are alike, as one client might send them.

The formulas are those of `deploy/prometheus/recording.yml`; a test compares the two.
"""

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

ALERT = 0.2
DRIFTS = (0.0, 0.1, 0.2, 0.3, 0.4)
IMAGES = ((200, 300), (200, 2_000), (1_000, 1_000), (5_000, 5_000))  # n, m
TOGETHER = 10
_TAGS = 20
_BINS = 20

Random = np.random.Generator
Shares = NDArray[np.float64]
Trial = Callable[[Random, int, int, float], tuple[float, float]]  # -> distance, bound by chance


def bray_curtis(now: Shares, validation: Shares) -> float:
    """Bray-Curtis distance of shares `[labels]`."""
    return float(np.abs(now - validation).sum() / (now + validation).sum())


def chance_of_labels(validation: Shares, n: int, m: int) -> float:
    """What `bray_curtis` exceeds in one of a thousand windows without drift."""
    mean = np.sqrt(validation * (1 - validation)).sum() / (2 * validation.sum())
    return float((mean + 1.86) * np.sqrt(1 / n + 1 / m))


def kolmogorov_smirnov(now: Shares, validation: Shares) -> float:
    """Kolmogorov-Smirnov distance of shares of bins `[bins]`."""
    return float(np.abs(np.cumsum(now) - np.cumsum(validation)).max())


def chance_of_confidence(n: int, m: int) -> float:
    """What `kolmogorov_smirnov` exceeds in one of a thousand windows without drift."""
    return float(1.95 * np.sqrt(1 / n + 1 / m))


def chance_of_unknown(alpha: float, n: int, m: int) -> float:
    """What the share of unknown images exceeds in one of a thousand windows without drift."""
    deviation = np.sqrt(alpha * (1 - alpha) * (1 / n + 1 / m))
    return float(alpha + 3.09 * deviation + 1.42 * (1 / n + 2 / m))


def one_label(labels: int, together: int = 1) -> Trial:
    """Each image has one of `labels` labels; the drift is a total variation distance."""

    def trial(random: Random, n: int, m: int, drift: float) -> tuple[float, float]:
        true = random.dirichlet(np.ones(labels))
        rarest = np.eye(labels)[true.argmin()]
        moved = true + drift / (1 - true.min()) * (rarest - true)
        validation = random.multinomial(m, true) / m
        now = random.multinomial(n // together, moved) / (n // together)
        return bray_curtis(now, validation), chance_of_labels(validation, n, m)

    return trial


def tags(random: Random, n: int, m: int, drift: float) -> tuple[float, float]:
    """Each image has any number of correlated tags; the drift adds and removes tags."""
    prevalence = random.dirichlet(np.ones(_TAGS)) * 1.5
    prevalence = np.clip(prevalence, 0.002, 0.95)
    half = random.permutation(_TAGS) < _TAGS // 2
    # this many tags move from one half of the labels to the other, at most all of them
    taken = np.minimum(drift * prevalence.sum() * prevalence * half / prevalence[half].sum(), 0.9)
    moved = np.clip(prevalence - taken + taken.sum() / (~half).sum() * ~half, 0, 0.98)
    validation, now = (
        _tagged(random, images, shares).mean(axis=0)
        for images, shares in ((m, prevalence), (n, moved))
    )
    return bray_curtis(now, validation), chance_of_labels(validation, n, m)


def _tagged(random: Random, images: int, shares: Shares) -> NDArray[np.bool_]:
    """bool `[images, tags]`: an image with one tag is more likely to have others."""
    propensity = random.beta(1, 1, (images, 1)) * 2  # mean 1
    return random.random((images, len(shares))) < np.minimum(shares * propensity, 1)


def confidence(random: Random, n: int, m: int, drift: float) -> tuple[float, float]:
    """Most images have a confident score; the drift makes this share of them unconfident."""
    true = np.diff(np.linspace(0, 1, _BINS + 1) ** random.uniform(2, 8))
    unconfident = np.eye(_BINS)[0]
    moved = true + drift / (1 - true[0]) * (unconfident - true)
    validation, now = random.multinomial(m, true) / m, random.multinomial(n, moved) / n
    return kolmogorov_smirnov(now, validation), chance_of_confidence(n, m)


TRIALS: dict[str, Trial] = {
    "2 labels": one_label(2),
    "37 labels": one_label(37),
    "120 labels": one_label(120),
    "1,000 labels": one_label(1_000),
    f"{_TAGS} tags": tags,
    "37 labels, in tens": one_label(37, TOGETHER),
    "confidence": confidence,
}


def main(repeats: int) -> None:
    random = np.random.default_rng(0)
    print("| | n | m | bound exceeded by chance |", *(f"alert at {drift} |" for drift in DRIFTS))
    print("|---" * (4 + len(DRIFTS)) + "|")
    for name, trial in TRIALS.items():
        for n, m in IMAGES:
            row = []
            for drift in DRIFTS:
                found = np.array([trial(random, n, m, drift) for _ in range(repeats)])
                passed = found[:, 0] > found[:, 1]
                if not drift:
                    row.append(f"{passed.mean():.2%}")
                row.append(f"{(passed & (found[:, 0] > ALERT)).mean():.1%}")
            print(f"| {name} | {n:,} | {m:,} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5_000)
