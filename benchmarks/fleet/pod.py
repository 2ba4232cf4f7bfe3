"""One pod: a bounded queue, and a model that takes what waits, up to a batch.

The batcher of `serving/batcher.py` as a queue: nothing waits for others while the model is free.
"""

from array import array
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import simpy

Process = Generator[simpy.Event, Any, None]


@dataclass(frozen=True)
class Speed:
    """What was measured of a pod; `batch_s`: seconds for a batch of so many images."""

    batch_s: Callable[[int], float]
    max_batch: int = 8
    places: float = 256  # images held, waiting or running, before it refuses
    refusal_s: float = 0.0  # taken from the model by each refusal
    servers: int = 1  # batches that run at a time


class Pod:
    """What it has counted so far is public; latencies of all pods go to one array."""

    def __init__(self, environment: simpy.Environment, speed: Speed, latencies: "array[float]"):
        self.offered = self.answered = 0
        self.busy_s = 0.0  # the sum of labrador_stage_seconds, stage infer
        self.held = 0
        self._environment = environment
        self._speed = speed
        self._latencies = latencies
        self._queue: deque[float] = deque()  # when each image came
        self._idle: deque[simpy.Event] = deque()  # of servers that wait for an image
        self._owed_s = 0.0
        for _ in range(speed.servers):
            environment.process(self._serve())

    def offer(self) -> None:
        """An image comes: it waits, or is refused if there is no place."""
        self.offered += 1
        if self.held >= self._speed.places:
            self._owed_s += self._speed.refusal_s
            return
        self.held += 1
        self._queue.append(self._environment.now)
        if self._idle:
            self._idle.popleft().succeed()

    def _serve(self) -> Process:
        while True:
            while not self._queue:
                self._idle.append(self._environment.event())
                yield self._idle[-1]
            came_s = [
                self._queue.popleft() for _ in range(min(len(self._queue), self._speed.max_batch))
            ]
            batch_s = self._speed.batch_s(len(came_s)) + self._owed_s
            self._owed_s = 0.0
            yield self._environment.timeout(batch_s)
            self.busy_s += batch_s
            self.held -= len(came_s)
            self.answered += len(came_s)
            self._latencies.extend(self._environment.now - at_s for at_s in came_s)
