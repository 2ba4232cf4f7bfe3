"""The rules by which Kubernetes chooses a number of pods: its HorizontalPodAutoscaler.

As documented ("Horizontal Pod Autoscaling", "Configurable scaling behavior") and, where that is
silent, as its controller does it: the ratio to the target with its tolerance, pods that have no
metric yet, stabilization windows, and the policies that limit a change. KEDA makes such an
autoscaler, with a metric of the whole fleet.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

SYNC_S = 15.0  # between two decisions
TOLERANCE = 0.1


@dataclass(frozen=True)
class Policy:
    """The most that the number of pods may change in `period_s`: pods, or percent of them."""

    kind: Literal["Pods", "Percent"]
    value: int
    period_s: float


@dataclass(frozen=True)
class Direction:
    """Up or down. Of several policies the one that allows most holds; without any, no limit."""

    window_s: float
    policies: tuple[Policy, ...] = ()


UP = Direction(0, (Policy("Percent", 100, 15), Policy("Pods", 4, 15)))
DOWN = Direction(300, (Policy("Percent", 100, 15),))  # both as Kubernetes has them by default


def wanted_by_pods(values: Sequence[float], pods: int, target: float) -> int:
    """The pods that a metric of type Pods asks for, of `pods`.

    values: of those that have the metric. A pod that has none yet counts as idle where more would
    be wanted, and as being at the target where fewer would.
    """
    if not values:
        return pods
    ratio = sum(values) / len(values) / target
    missing = pods - len(values)
    if not missing:
        return pods if _tolerated(ratio) else _ceil(ratio * pods)
    assumed = missing * target if ratio < 1 else 0.0
    counted = (sum(values) + assumed) / pods / target
    if _tolerated(counted) or (ratio < 1) != (counted < 1):
        return pods
    return _ceil(counted * pods)


def wanted_by_total(total: float, pods: int, target: float) -> int:
    """The pods that a metric of type External asks for, with a target of type AverageValue."""
    return pods if _tolerated(total / (target * pods)) else _ceil(total / target)


def _tolerated(ratio: float) -> bool:
    return abs(ratio - 1) <= TOLERANCE


def _ceil(pods: float) -> int:
    return math.ceil(round(pods, 9))  # 0.3 / 0.1 is 3


@dataclass
class Autoscaler:
    """Its limits, and what it remembers of its advice and its changes."""

    minimum: int
    maximum: int
    up: Direction = UP
    down: Direction = DOWN
    _advice: list[tuple[float, int]] = field(default_factory=list)  # when, pods
    _changes: list[tuple[float, int]] = field(default_factory=list)  # when, pods added

    def decide(self, now_s: float, pods: int, wanted: Sequence[int]) -> int:
        """The number of pods from now on. wanted: by each metric; the highest counts."""
        advised = max(wanted)
        remembered_s = max(self.up.window_s, self.down.window_s)
        self._advice = [old for old in self._advice if old[0] > now_s - remembered_s]
        lowest = min([advised, *(n for at_s, n in self._advice if at_s > now_s - self.up.window_s)])
        highest = max(
            [advised, *(n for at_s, n in self._advice if at_s > now_s - self.down.window_s)]
        )
        self._advice.append((now_s, advised))
        after = min(max(pods, lowest), highest)
        if after > pods:
            after = max(pods, min(after, self.maximum, self._most(now_s, pods)))
        elif after < pods:
            after = min(pods, max(after, self.minimum, self._fewest(now_s, pods)))
        after = min(max(after, self.minimum), self.maximum)
        if after != pods:
            self._changes.append((now_s, after - pods))
        return after

    def _most(self, now_s: float, pods: int) -> int:
        limits = []
        for policy in self.up.policies:
            before = pods - self._changed(now_s, policy)
            grown = before * (1 + policy.value / 100)
            limits.append(_ceil(grown) if policy.kind == "Percent" else before + policy.value)
        return max(limits, default=self.maximum)

    def _fewest(self, now_s: float, pods: int) -> int:
        limits = []
        for policy in self.down.policies:
            before = pods - self._changed(now_s, policy)
            shrunk = before * (1 - policy.value / 100)
            limits.append(int(shrunk + 1e-9) if policy.kind == "Percent" else before - policy.value)
        return min(limits, default=self.minimum)

    def _changed(self, now_s: float, policy: Policy) -> int:
        """Pods added, less those removed, in the policy's period."""
        return sum(added for at_s, added in self._changes if at_s > now_s - policy.period_s)
