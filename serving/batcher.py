"""Dynamic batching without a window: images queue while the model runs; the next run takes them.

So a single image never waits for others, and batches grow with the load. An image that nobody
waits for any more leaves the queue at once and never reaches the model.
"""

import asyncio
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from models.errors import DeadlineExceeded, Overloaded
from models.outputs import Output, Outputs
from models.wording import counted
from serving.deadline import has_passed
from serving.observability.metrics import ModelMetrics
from serving.observability.observation import Observation

RETRY_AFTER_MAX_S = 60
_POLL_S = 0.05  # how often a batcher that retires checks whether it is done


Run = Callable[[NDArray[np.uint8], bool], Outputs]
"""images uint8 `[N, S, S, 3]`, whether to fetch maps -> what the network gives for them."""


@dataclass(eq=False, slots=True)
class Waiting:
    """One image in the queue."""

    image: NDArray[np.uint8]
    maps: bool  # whether its maps are asked for
    since_s: float  # perf_counter: uvloop's clock has a resolution of milliseconds
    deadline_s: float  # the event loop's clock
    output: asyncio.Future[Output]
    observed: Observation


class Batcher:
    """Feeds one model from one thread. Must be created, used and closed on one event loop."""

    def __init__(
        self,
        run: Run,
        metrics: ModelMetrics,
        max_batch: int,
        max_queue: int,
    ) -> None:
        self._run = run
        self._metrics = metrics
        self._max_batch = max_batch
        self._max_queue = max_queue
        metrics.held_images_limit.set(max_queue)
        self._held = 0  # images admitted and not yet answered
        self._queue: dict[Waiting, None] = {}  # ordered, with removal in constant time
        self._arrival = asyncio.Event()
        self._image_s = 0.0  # moving average of the model's time per image
        self._run_since_s: float | None = None
        self._last_failed = False
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, "model")
        self._feeding = self._loop.create_task(self._feed())

    @contextmanager
    def admitted(self, images: int) -> Iterator[None]:
        """Reserve room for a number of images, from before they are decoded until the answer.

        Raises Overloaded if there would be more than `max_queue`.
        """
        self.check_room(images)
        self._held += images
        self._metrics.held_images.inc(images)
        try:
            yield
        finally:
            self._held -= images
            self._metrics.held_images.dec(images)

    @property
    def room(self) -> int:
        """How many more images would be admitted."""
        return self._max_queue - self._held

    def check_room(self, images: int) -> None:
        """Raises Overloaded if there is no room for this number of images."""
        if images > self.room:
            wait_s = math.ceil(self._held * self._image_s)
            retry_after_s = min(max(1, wait_s), RETRY_AFTER_MAX_S)
            raise Overloaded(
                f"no room for {counted(images, 'more image')}: {self._held} of {self._max_queue}"
                f" places taken; try again in {retry_after_s} s",
                retry_after_s,
            )

    async def output(
        self,
        image: NDArray[np.uint8],
        deadline_s: float,
        observed: Observation | None = None,
        maps: bool = False,
    ) -> Output:
        """image uint8 `[S, S, 3]` -> what the network gives for it. Cancelling removes the image.

        deadline_s: on the event loop's clock; observed: the request that the image is of; maps:
        whether to fetch them, only if the network has some. Raises DeadlineExceeded if the deadline
        passes before the model takes the image, and whatever the model's run raises.
        """
        output: asyncio.Future[Output] = self._loop.create_future()
        observed = observed or Observation()
        waiting = Waiting(image, maps, perf_counter(), deadline_s, output, observed)
        self._queue[waiting] = None
        self._metrics.queue_images.inc()
        self._arrival.set()
        try:
            return await waiting.output
        finally:
            if waiting in self._queue:
                self._drop(waiting)

    def fault(self, timeout_s: float) -> str | None:
        """Why the model must be considered dead; None while it works."""
        if self._feeding.done():
            return "its batcher stopped"
        if self._last_failed:
            return "its last run failed"
        if self._run_since_s is not None and perf_counter() - self._run_since_s > timeout_s:
            return f"its run takes longer than {timeout_s:g} s"
        return None

    async def retire(self) -> None:
        """Answer what was admitted, then close. Nothing may be admitted any more."""
        while self._held or (self._run_since_s is not None and not self._feeding.done()):
            # a run may outlive its requests
            await asyncio.sleep(_POLL_S)
        await self.close()

    async def close(self) -> None:
        """Stop, and let the model go at once, or after its run. Nothing may be waiting any more."""
        self._feeding.cancel()
        await asyncio.wait([self._feeding])
        self._thread.shutdown(wait=self._run_since_s is None)  # else it would hold up the loop
        self._run = _closed  # a session has memory and threads, and who holds a batcher may linger

    async def _feed(self) -> None:
        while True:
            await self._arrival.wait()
            batch = self._take()
            if not self._queue:
                self._arrival.clear()
            if not batch:
                continue
            self._run_since_s = perf_counter()
            try:
                rows = await self._loop.run_in_executor(self._thread, self._infer, batch)
            except Exception as error:
                self._last_failed = True
                for waiting in batch:
                    if not waiting.output.done():
                        waiting.output.set_exception(error)
            else:
                self._last_failed = False
                for waiting, output in zip(batch, rows, strict=True):
                    if not waiting.output.done():
                        waiting.output.set_result(output)
                self._measure(len(batch), perf_counter() - self._run_since_s)
            self._run_since_s = None

    def _take(self) -> list[Waiting]:
        """The next images, at most `max_batch`; those past their deadline get DeadlineExceeded."""
        now_s = self._loop.time()
        batch: list[Waiting] = []
        for waiting in list(self._queue):
            if waiting.output.cancelled():
                self._drop(waiting)
            elif waiting.deadline_s <= now_s:
                self._drop(waiting)
                waiting.output.set_exception(DeadlineExceeded("the image waited too long"))
            elif len(batch) < self._max_batch:
                self._leave(waiting)
                self._metrics.queued(waiting.observed, waiting.since_s)
                batch.append(waiting)
        return batch

    def _leave(self, waiting: Waiting) -> None:
        del self._queue[waiting]
        self._metrics.queue_images.dec()

    def _drop(self, waiting: Waiting) -> None:
        self._leave(waiting)
        self._metrics.drop(expired=has_passed(waiting.deadline_s))

    def _infer(self, batch: list[Waiting]) -> list[Output]:
        """The output of each image; maps are fetched only if those of any were asked for."""
        images = np.stack([waiting.image for waiting in batch])
        start_s = perf_counter()
        try:
            return list(self._run(images, any(waiting.maps for waiting in batch)).each())
        finally:
            self._metrics.ran([waiting.observed for waiting in batch], start_s, perf_counter())

    def _measure(self, images: int, run_s: float) -> None:
        self._metrics.batch_size.observe(images)
        image_s = run_s / images
        self._image_s = 0.8 * self._image_s + 0.2 * image_s if self._image_s else image_s


def _closed(images: NDArray[np.uint8], maps: bool) -> Outputs:
    raise RuntimeError("the batcher is closed")
