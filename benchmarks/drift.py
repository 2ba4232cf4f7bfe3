"""How often the drift alerts are wrong, simulated: windows of images whose true drift is known.

python -m benchmarks.drift [REPEATS]

Prints two tables, by the number of images in the window (n) and held out (m): how often chance
alone passes its bound, which promises once in a thousand times, and how often the alert comes with
a true drift of so much. Each repeat draws the shares of the labels, the held-out images and the
window anew. Labels: one of so many a picture, or tags: several, that like to come together. "In
tens" draws the images of the window ten at a time alike, as one client sends them.

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
Trial = Callable[[Random, int, int, float], tuple[float, float]]  # -> distance, bound of chance


def bray_curtis(now: Shares, held_out: Shares) -> float:
    """Of shares `[labels]`."""
    return float(np.abs(now - held_out).sum() / (now + held_out).sum())


def chance_of_labels(held_out: Shares, n: int, m: int) -> float:
    """What `bray_curtis` exceeds once in a thousand times without drift."""
    mean = np.sqrt(held_out * (1 - held_out)).sum() / (2 * held_out.sum())
    return float((mean + 1.86) * np.sqrt(1 / n + 1 / m))


def kolmogorov_smirnov(now: Shares, held_out: Shares) -> float:
    """Of shares of bins `[bins]`."""
    return float(np.abs(np.cumsum(now) - np.cumsum(held_out)).max())


def chance_of_confidence(n: int, m: int) -> float:
    """What `kolmogorov_smirnov` exceeds once in a thousand times without drift."""
    return float(1.95 * np.sqrt(1 / n + 1 / m))


def one_label(labels: int, together: int = 1) -> Trial:
    """Each image has one of so many labels; the drift is a total variation."""

    def trial(random: Random, n: int, m: int, drift: float) -> tuple[float, float]:
        true = random.dirichlet(np.ones(labels))
        rarest = np.eye(labels)[true.argmin()]
        moved = true + drift / (1 - true.min()) * (rarest - true)
        held_out = random.multinomial(m, true) / m
        now = random.multinomial(n // together, moved) / (n // together)
        return bray_curtis(now, held_out), chance_of_labels(held_out, n, m)

    return trial


def tags(random: Random, n: int, m: int, drift: float) -> tuple[float, float]:
    """Each image has none to many tags, which come together; the drift adds and takes tags."""
    prevalence = random.dirichlet(np.ones(_TAGS)) * 1.5
    prevalence = np.clip(prevalence, 0.002, 0.95)
    half = random.permutation(_TAGS) < _TAGS // 2
    # so many tags go from the one half of the labels to the other, at most all
    taken = np.minimum(drift * prevalence.sum() * prevalence * half / prevalence[half].sum(), 0.9)
    moved = np.clip(prevalence - taken + taken.sum() / (~half).sum() * ~half, 0, 0.98)
    held_out, now = (
        _tagged(random, images, shares).mean(axis=0)
        for images, shares in ((m, prevalence), (n, moved))
    )
    return bray_curtis(now, held_out), chance_of_labels(held_out, n, m)


def _tagged(random: Random, images: int, shares: Shares) -> NDArray[np.bool_]:
    """bool `[images, tags]`: an image that has one tag is likelier to have others."""
    liking = random.beta(1, 1, (images, 1)) * 2  # mean 1
    return random.random((images, len(shares))) < np.minimum(shares * liking, 1)


def confidence(random: Random, n: int, m: int, drift: float) -> tuple[float, float]:
    """Most images are sure; the drift takes so many of those and makes them unsure."""
    true = np.diff(np.linspace(0, 1, _BINS + 1) ** random.uniform(2, 8))
    unsure = np.eye(_BINS)[0]
    moved = true + drift / (1 - true[0]) * (unsure - true)
    held_out, now = random.multinomial(m, true) / m, random.multinomial(n, moved) / n
    return kolmogorov_smirnov(now, held_out), chance_of_confidence(n, m)


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
    print("| | n | m | chance passed |", *(f"alert at {drift} |" for drift in DRIFTS))
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
