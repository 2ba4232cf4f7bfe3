"""The memory for request bodies: a budget that all requests of a worker share.

Bodies that are still arriving give way. When a chunk does not fit, the body that has waited longest
for its next chunk is refused, so stuck uploads never keep other requests out.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from models.errors import Overloaded
from serving import memory

RETRY_AFTER_S = 1
_TRIM_BYTES = 32 * 2**20  # held at once, after which the freed memory is given back


class Body:
    """The bytes that one request holds."""

    def __init__(self, bodies: "Bodies") -> None:
        self._bodies = bodies
        self._task = asyncio.current_task()
        self.size = 0
        self.refused = False

    def add(self, size: int) -> None:
        """Take room for a chunk that has arrived. Raises Overloaded if there is none."""
        self._bodies.make_room(self, size)
        self.size += size

    def complete(self) -> None:
        """From now on it does not give way."""
        self._bodies.arriving.pop(self, None)

    def refuse(self) -> None:
        """End the request that waits for the body's next chunk."""
        self.refused = True
        if self._task is not None:
            self._task.cancel()


class Bodies:
    """Room for `limit_bytes`. Used on one event loop."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._held = 0
        self._peak = 0
        self.arriving: dict[Body, None] = {}  # the longest without a chunk first

    @contextmanager
    def body(self) -> Iterator[Body]:
        """A request's body, whose room is free again afterwards.

        Raises Overloaded, at once if bodies that are complete take all of the room, or as soon as
        this one has to give way. Enter it in the task that reads the body.
        """
        if self._held - sum(body.size for body in self.arriving) >= self._limit:
            raise self._overloaded()
        body = Body(self)
        self.arriving[body] = None
        try:
            yield body
        except asyncio.CancelledError:
            if body.refused and (task := asyncio.current_task()) is not None:
                task.uncancel()
                raise self._overloaded() from None
            raise
        finally:
            body.complete()
            self._held -= body.size
            if not self._held and self._peak > _TRIM_BYTES:
                self._peak = 0
                asyncio.get_running_loop().run_in_executor(None, memory.give_back)

    def make_room(self, body: Body, size: int) -> None:
        """Count `size` more bytes for `body`; the stalest of the others give way for it."""
        while self._held + size > self._limit:
            stalest = next((other for other in self.arriving if other is not body), None)
            if stalest is None:
                raise self._overloaded()
            self._held -= stalest.size
            stalest.size = 0
            stalest.complete()
            stalest.refuse()
        self._held += size
        self._peak = max(self._peak, self._held)
        if body in self.arriving:  # the latest to make progress
            self.arriving[body] = self.arriving.pop(body)

    def _overloaded(self) -> Overloaded:
        return Overloaded(
            f"request bodies take all of the {self._limit / 2**20:g} MiB that they may; try again"
            f" in {RETRY_AFTER_S} s",
            RETRY_AFTER_S,
        )
