"""Natural batching: while the model runs, images wait; when it is free it takes what waits.

So a lone image never waits for company, and batches fill as the load grows. An image that nobody
waits for any more leaves the queue at once and never reaches the model.
"""

import asyncio
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from models.errors import DeadlineExceeded, Overloaded
from models.golden import Runner
from serving.metrics import Metrics

RETRY_AFTER_MAX_S = 60
_LOOK_S = 0.05  # how often a batcher that retires looks whether it is done


@dataclass(eq=False, slots=True)
class Waiting:
    """One image in the queue."""

    image: NDArray[np.uint8]
    since_s: float  # of perf_counter: uvloop's clock counts in milliseconds
    deadline_s: float  # of the event loop's clock
    scores: asyncio.Future[NDArray[np.float32]]


class Batcher:
    """Feeds one model with one thread. Made, used and closed on one event loop."""

    def __init__(self, run: Runner, metrics: Metrics, max_batch: int, max_queue: int) -> None:
        self._run = run
        self._metrics = metrics
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._held = 0  # images admitted and not yet answered
        self._queue: dict[Waiting, None] = {}  # in order, and whoever leaves costs no search
        self._arrival = asyncio.Event()
        self._image_s = 0.0  # time of the model an image, the later runs counting more
        self._run_since_s: float | None = None
        self._last_failed = False
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, "model")
        self._feeding = self._loop.create_task(self._feed())

    @contextmanager
    def admitted(self, images: int) -> Iterator[None]:
        """Hold room for `images`, from before they are decoded until they are answered.

        Raises Overloaded where there would be more than `max_queue`.
        """
        self.check_room(images)
        self._held += images
        try:
            yield
        finally:
            self._held -= images

    @property
    def room(self) -> int:
        """How many more images it would admit."""
        return self._max_queue - self._held

    def check_room(self, images: int) -> None:
        """Raises Overloaded where `images` more would be more than `max_queue`."""
        if images > self.room:
            wait_s = math.ceil(self._held * self._image_s)
            retry_after_s = min(max(1, wait_s), RETRY_AFTER_MAX_S)
            raise Overloaded(
                f"{images} more images do not fit: {self._held} wait and {self._max_queue} may;"
                f" try again in {retry_after_s} s",
                retry_after_s,
            )

    async def scores(self, image: NDArray[np.uint8], deadline_s: float) -> NDArray[np.float32]:
        """image uint8 `[S, S, 3]` -> scores float32 `[C]`. Cancel it to take the image out.

        deadline_s: on the event loop's clock. Raises DeadlineExceeded if it comes before the
        model does, and whatever the model's run raised.
        """
        waiting = Waiting(image, perf_counter(), deadline_s, self._loop.create_future())
        self._queue[waiting] = None
        self._metrics.queue_images.inc()
        self._arrival.set()
        try:
            return await waiting.scores
        finally:
            if waiting in self._queue:
                self._drop(waiting)

    def fault(self, timeout_s: float) -> str | None:
        """Why the model must be taken for dead; None while it works."""
        if self._feeding.done():
            return "its batcher stopped"
        if self._last_failed:
            return "its last run failed"
        if self._run_since_s is not None and perf_counter() - self._run_since_s > timeout_s:
            return f"its run takes longer than {timeout_s:g} s"
        return None

    async def retire(self) -> None:
        """Answer what was admitted, then close: nothing new comes any more."""
        while self._held:
            await asyncio.sleep(_LOOK_S)
        await self.close()

    async def close(self) -> None:
        """Call it once nothing waits any more."""
        self._feeding.cancel()
        await asyncio.wait([self._feeding])
        self._thread.shutdown()

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
                scores = await self._loop.run_in_executor(self._thread, self._infer, batch)
            except Exception as error:
                self._last_failed = True
                for waiting in batch:
                    if not waiting.scores.done():
                        waiting.scores.set_exception(error)
            else:
                self._last_failed = False
                for waiting, row in zip(batch, scores, strict=True):
                    if not waiting.scores.done():
                        waiting.scores.set_result(row)
                self._measure(len(batch), perf_counter() - self._run_since_s)
            self._run_since_s = None

    def _take(self) -> list[Waiting]:
        """The next images, at most `max_batch`; those past their deadline are answered so."""
        now_s = self._loop.time()
        batch: list[Waiting] = []
        for waiting in list(self._queue):
            if waiting.scores.cancelled():
                self._drop(waiting)
            elif waiting.deadline_s <= now_s:
                self._drop(waiting)
                waiting.scores.set_exception(DeadlineExceeded("the image waited too long"))
            elif len(batch) < self._max_batch:
                self._leave(waiting)
                self._metrics.stage_seconds["queue"].observe(perf_counter() - waiting.since_s)
                batch.append(waiting)
        return batch

    def _leave(self, waiting: Waiting) -> None:
        del self._queue[waiting]
        self._metrics.queue_images.dec()

    def _drop(self, waiting: Waiting) -> None:
        self._leave(waiting)
        self._metrics.drop(expired=self._loop.time() >= waiting.deadline_s)

    def _infer(self, batch: list[Waiting]) -> NDArray[np.float32]:
        with self._metrics.stage("infer"):
            return self._run(np.stack([waiting.image for waiting in batch]))

    def _measure(self, images: int, run_s: float) -> None:
        self._metrics.batch_size.observe(images)
        image_s = run_s / images
        self._image_s = 0.8 * self._image_s + 0.2 * image_s if self._image_s else image_s
