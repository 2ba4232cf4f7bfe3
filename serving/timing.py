"""How much faster than fp32 another form of the network is, on this machine.

The two run in turn, so whatever else slows the machine meanwhile slows both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from models.golden import Runner

CLEARLY = 1.1  # times the images a second: less may be noise, and the more exact form is preferred
_ENOUGH_S = 0.4  # for a batch size, if that is `_ROUNDS_MIN` rounds
_LONGEST_S = 3.0  # for a slow network; the round that exceeds it is completed
_ROUNDS_MIN, _ROUNDS_MAX = 3, 50  # the median of three leaves out one that was disturbed


@dataclass(frozen=True)
class Speed:
    """What a form of the network answered when it was timed. batch: images per run."""

    provider: str
    precision: str
    batch: int
    images_per_second: float


@dataclass(frozen=True)
class Comparison:
    """Seconds of a run, by batch size, of the reference and of a form that was timed beside it."""

    reference: Mapping[int, float]
    form: Mapping[int, float]

    def times(self, batch: int) -> float:
        """How many times the reference's images a second the form answers."""
        return self.reference[batch] / self.form[batch]

    @property
    def at_full_batch(self) -> float:
        return self.times(max(self.form))

    def told(self, reference: str) -> str:
        """`2.93 times as many images a second as fp32 at batch 8, 2.11 at batch 1`."""
        full = max(self.form)
        text = f"{self.times(full):.2f} times as many images a second as {reference} at batch "
        return text + (f"{full}, {self.times(1):.2f} at batch 1" if full > 1 else "1")


def compare(reference: Runner, form: Runner, images: NDArray[np.uint8]) -> Comparison:
    """Time both on all images, a full batch uint8 `[N, S, S, 3]`, and on the first alone.

    Both must have run before: a first run allocates.
    """
    batches = {batch: images[:batch] for batch in (1, len(images))}
    seconds = {batch: _timed([reference, form], some) for batch, some in batches.items()}
    return Comparison(
        {batch: pair[0] for batch, pair in seconds.items()},
        {batch: pair[1] for batch, pair in seconds.items()},
    )


def beats(form: Comparison, best: Comparison | None) -> bool:
    """Whether the form should serve rather than the best so far; None: the reference is the best.

    It must be clearly faster than that one at the full batch, which is what a busy service runs,
    and not slower than the reference at any size, so that no request waits longer than without it.
    """
    least = CLEARLY * (1.0 if best is None else best.at_full_batch)
    return form.at_full_batch >= least and all(form.times(batch) >= 1 for batch in form.form)


def speeds(provider: str, precision: str, seconds: Mapping[int, float]) -> list[Speed]:
    """seconds: of a run, by batch size."""
    return [Speed(provider, precision, batch, batch / each) for batch, each in seconds.items()]


def _timed(runs: Sequence[Runner], images: NDArray[np.uint8]) -> list[float]:
    """The median seconds of each, run in turn, in an order that is reversed after each round."""
    seconds: list[list[float]] = [[] for _ in runs]
    order = list(range(len(runs)))
    began_s = perf_counter()
    while _goes_on(len(seconds[0]), perf_counter() - began_s):
        for number in order:
            start_s = perf_counter()
            runs[number](images)
            seconds[number].append(perf_counter() - start_s)
        order.reverse()
    return [median(each) for each in seconds]


def _goes_on(rounds: int, elapsed_s: float) -> bool:
    """Whether there is another round after so many of them."""
    if rounds < _ROUNDS_MIN:
        return elapsed_s < _LONGEST_S
    return rounds < _ROUNDS_MAX and elapsed_s < _ENOUGH_S
