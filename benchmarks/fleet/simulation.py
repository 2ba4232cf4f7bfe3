"""A fleet: arrivals at random pods, scrapes, and the autoscaler that adds and removes pods."""

import random
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import simpy

from benchmarks.fleet.autoscaler import SYNC_S, Autoscaler, wanted_by_pods, wanted_by_total
from benchmarks.fleet.loads import Load
from benchmarks.fleet.metrics import SCRAPE_S, Sample, Scraped
from benchmarks.fleet.pod import Pod, Process, Speed


@dataclass(frozen=True)
class Signal:
    """What the autoscaler looks at, and its target; window_s: of the query.

    held: the share of the images that a pod may hold. busy: the share of time in which its model
    runs. Summed over the fleet, as KEDA asks for them: all held; and demand, the busy shares times
    offered over answered.
    """

    kind: str
    target: float
    window_s: float


@dataclass(frozen=True)
class Outcome:
    """Shares and seconds of all images offered; pods: one value for each decision."""

    offered: int
    answered: int
    p50_s: float
    p99_s: float
    pods: Sequence[int]
    pod_hours: float

    @property
    def shed(self) -> float:
        return 1 - self.answered / self.offered


@dataclass(eq=False)
class _Replica:
    pod: Pod | None  # None until it is ready
    scraped: Scraped
    removed: bool = False


class Fleet:
    """`start_s`: from the decision to add a pod until it is sent requests."""

    def __init__(
        self,
        speed: Speed,
        start_s: float,
        signals: Sequence[Signal],
        autoscaler: Autoscaler,
        seed: int = 0,
    ) -> None:
        self._environment = simpy.Environment()
        self._speed = speed
        self._start_s = start_s
        self._signals = signals
        self._autoscaler = autoscaler
        self._random = random.Random(seed)
        self._draw = np.random.default_rng(seed)
        self._replicas: list[_Replica] = []
        self._ready: list[Pod] = []
        self._latencies = array("d")
        self._offered = 0
        self._pods: list[int] = []
        self._pod_s = 0.0
        for _ in range(autoscaler.minimum):
            self._add(start_s=0)

    def run(self, load: Load, duration_s: float) -> Outcome:
        """Under the load, images a second at each time, with Poisson arrivals."""
        self._environment.process(self._arrive(load))
        self._environment.process(self._decide())
        self._environment.run(duration_s)
        p50_s, p99_s = np.percentile(self._latencies, [50, 99])
        # what is still held at the end is neither answered nor shed
        held = sum(pod.held for pod in self._ready)
        answered = len(self._latencies)
        return Outcome(self._offered - held, answered, p50_s, p99_s, self._pods, self._pod_s / 3600)

    def _arrive(self, load: Load) -> Process:
        while True:
            second = self._environment.now
            for at_s in np.sort(self._draw.random(self._draw.poisson(load(second)))).tolist():
                yield self._environment.timeout(second + at_s - self._environment.now)
                self._offered += 1
                self._random.choice(self._ready).offer()
            yield self._environment.timeout(second + 1 - self._environment.now)

    def _decide(self) -> Process:
        while True:
            yield self._environment.timeout(SYNC_S)
            now_s, count = self._environment.now, len(self._replicas)
            self._pods.append(count)
            self._pod_s += count * SYNC_S
            wanted = [self._wanted(signal, now_s) for signal in self._signals]
            after = self._autoscaler.decide(now_s, count, wanted)
            for _ in range(after - count):
                self._add(self._start_s)
            for _ in range(count - after):
                self._remove()

    def _wanted(self, signal: Signal, now_s: float) -> int:
        count = len(self._replicas)
        scraped = [replica.scraped for replica in self._replicas]
        if signal.kind in ("held", "all held"):
            held = [one.average(now_s, signal.window_s) for one in scraped]
            shares = [value / self._speed.places for value in held if value is not None]
            if signal.kind == "all held":
                return wanted_by_total(sum(shares), count, signal.target)
            return wanted_by_pods(shares, count, signal.target)
        busy = self._rates(scraped, signal, now_s, lambda sample: sample.busy_s)
        if signal.kind == "busy":
            return wanted_by_pods(busy, count, signal.target)
        offered = sum(self._rates(scraped, signal, now_s, lambda sample: sample.offered))
        answered = sum(self._rates(scraped, signal, now_s, lambda sample: sample.answered))
        total = sum(busy) * (max(1, offered / answered) if answered else 1)
        return wanted_by_total(total, count, signal.target)

    @staticmethod
    def _rates(
        scraped: Sequence[Scraped], signal: Signal, now_s: float, of: Callable[[Sample], float]
    ) -> list[float]:
        found = (one.rate(now_s, signal.window_s, of) for one in scraped)
        return [value for value in found if value is not None]

    def _add(self, start_s: float) -> None:
        replica = _Replica(None, Scraped(deque()))
        self._replicas.append(replica)
        self._environment.process(self._live(replica, start_s))

    def _live(self, replica: _Replica, start_s: float) -> Process:
        if start_s:
            yield self._environment.timeout(start_s)
        if replica.removed:
            return
        replica.pod = Pod(self._environment, self._speed, self._latencies)
        self._ready.append(replica.pod)
        yield self._environment.timeout(self._random.random() * SCRAPE_S)
        while not replica.removed:
            replica.scraped.scrape(self._environment.now, replica.pod)
            yield self._environment.timeout(SCRAPE_S)

    def _remove(self) -> None:
        """The newest, so first one that is not ready; it answers what it holds."""
        replica = self._replicas.pop()
        replica.removed = True
        if replica.pod is not None:
            self._ready.remove(replica.pod)
