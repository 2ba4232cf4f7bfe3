"""What Prometheus knows of a pod: samples, some seconds apart, and its functions over them."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.fleet.pod import Pod

SCRAPE_S = 15.0  # as in deploy/kubernetes/monitoring
_KEPT_S = 300.0


class Sample(NamedTuple):
    """A scrape: when, the gauge of held images, and counters."""

    at_s: float
    held: float
    busy_s: float
    offered: float
    answered: float


@dataclass
class Scraped:
    """The samples of one pod."""

    samples: deque[Sample]

    def scrape(self, now_s: float, pod: Pod) -> None:
        sample = Sample(now_s, pod.held, pod.busy_s, pod.offered, pod.answered)
        self.samples.append(sample)
        while self.samples[0].at_s < now_s - _KEPT_S:
            self.samples.popleft()

    def average(self, now_s: float, window_s: float) -> float | None:
        """avg_over_time of the held images; None without a sample."""
        held = [s.held for s in self.samples if s.at_s > now_s - window_s]
        return sum(held) / len(held) if held else None

    def rate(
        self, now_s: float, window_s: float, counter: Callable[[Sample], float]
    ) -> float | None:
        """rate() of a counter; None with fewer than two samples."""
        values = [(s.at_s, counter(s)) for s in self.samples if s.at_s > now_s - window_s]
        return rate(values, now_s, window_s) if len(values) > 1 else None


def rate(values: Sequence[tuple[float, float]], now_s: float, window_s: float) -> float:
    """Prometheus' rate() of a counter that was never reset; values: when and what, at least two.

    It extrapolates to the ends of the window, but by half an interval where the series begins or
    ends within it, and never below zero; and divides by the window. So a new pod's is too low.
    """
    (first_s, first), (last_s, last) = values[0], values[-1]
    sampled_s, increase = last_s - first_s, last - first
    interval_s = sampled_s / (len(values) - 1)
    before_s, after_s = first_s - (now_s - window_s), now_s - last_s
    if before_s >= 1.1 * interval_s:
        before_s = interval_s / 2
    if increase > 0:
        before_s = min(before_s, sampled_s * first / increase)
    if after_s >= 1.1 * interval_s:
        after_s = interval_s / 2
    return increase * (sampled_s + before_s + after_s) / sampled_s / window_s
