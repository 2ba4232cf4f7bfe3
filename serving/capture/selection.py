"""Which of the images that were answered are worth keeping, and how many of them an hour.

unknown   the model says itself that it is of no kind that it knows
unsure    its margin is among the lowest `share` of the last images'
random    `share` of all: what the others are measured against
"""

import bisect
import random
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from models.captured import Why
from models.decision import above
from models.manifest import Manifest

REASONS: tuple[Why, ...] = get_args(Why)
_WINDOW = 1000  # images of a model among which one is unsure

Scores = NDArray[np.float32]


class Selection:
    """Used on one event loop; a decision takes some microseconds."""

    def __init__(self, share: float, per_h: int) -> None:
        """per_h: images an hour for each reason."""
        self._share = share
        self._margins: dict[str, Margins] = defaultdict(Margins)
        self._paces = {why: Pace(per_h) for why in REASONS}

    def reasons(self, scores: Scores, manifest: Manifest, unknown: bool) -> list[Why]:
        """Why an image is worth keeping; empty for most. scores: its answer, `[C]`.

        unknown: as the answer says it.
        """
        unsure = self._margins[manifest.name].is_low(margin(scores, manifest), self._share)
        chosen = random.random() < self._share
        holds: dict[Why, bool] = {"unknown": unknown, "unsure": unsure, "random": chosen}
        return [why for why in REASONS if holds[why]]

    def afforded(self, reasons: Sequence[Why]) -> tuple[Why, ...]:
        """Those of the reasons for which the hour's images are not used up; it uses one of each."""
        return tuple(why for why in reasons if self._paces[why].take())


class Margins:
    """The margins of a model's last images, to tell which are low among them."""

    def __init__(self) -> None:
        self._last: deque[float] = deque()
        self._sorted: list[float] = []

    def is_low(self, margin: float, share: float) -> bool:
        """Whether at most `share` of these images, itself among them, have so low a margin.

        So at most this share of images is low, whatever the network and its scores, as long as they
        are alike (the p-value of split conformal prediction); none is before there are enough.
        """
        lower = bisect.bisect_right(self._sorted, margin)
        low = 1 + lower <= share * (1 + len(self._sorted))
        self._last.append(margin)
        bisect.insort(self._sorted, margin)
        if len(self._last) > _WINDOW:
            del self._sorted[bisect.bisect_left(self._sorted, self._last.popleft())]
        return low


class Pace:
    """A token bucket: `per_h` an hour, spread over it; after a quiet hour as many at once."""

    def __init__(self, per_h: int, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._per_h, self._clock_s = per_h, clock_s
        self._tokens, self._at_s = float(per_h), clock_s()

    def take(self) -> bool:
        now_s = self._clock_s()
        earned = (now_s - self._at_s) * self._per_h / 3600
        self._tokens, self._at_s = min(self._per_h, self._tokens + earned), now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def margin(scores: Scores, manifest: Manifest) -> float:
    """How far the answer is from another one, in [0, 1]. scores: `[C]`.

    Single-label: the highest score minus the second. Multi-label: the smallest distance of a score
    from its threshold, as a share of the way to 0 or to 1.
    """
    if manifest.thresholds is None:
        first, second = np.sort(np.append(scores, 0))[-1:-3:-1]
        return float(first - second)
    thresholds = np.asarray(manifest.thresholds, np.float32)
    ways = np.where(above(scores, thresholds), 1 - thresholds, thresholds)
    distances = np.abs(scores - thresholds) / np.maximum(ways, np.finfo(np.float32).tiny)
    return float(distances.min())
