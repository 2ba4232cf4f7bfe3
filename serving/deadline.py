"""Cancels work when a request's deadline has passed or its client has disconnected."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from models.errors import DeadlineExceeded, ReadTimeout

_EARLY_S = 0.001  # uvloop rounds a timer to milliseconds: it may fire half of one too soon


def has_passed(deadline_s: float) -> bool:
    """Whether what is cancelled now was so by this deadline, a time on the event loop's clock."""
    return asyncio.get_running_loop().time() + _EARLY_S >= deadline_s


@asynccontextmanager
async def reading(deadline_s: float, read_deadline_s: float) -> AsyncIterator[None]:
    """Cancels its block at the earlier of two times, both on the event loop's clock.

    Raises DeadlineExceeded at `deadline_s` and ReadTimeout at `read_deadline_s`.
    """
    try:
        async with asyncio.timeout_at(min(deadline_s, read_deadline_s)):
            yield
    except TimeoutError as error:
        if deadline_s <= read_deadline_s:
            raise DeadlineExceeded("the deadline passed before the body arrived") from error
        raise ReadTimeout("the body arrived too slowly") from error


@asynccontextmanager
async def waited_for(receive: Receive, deadline_s: float) -> AsyncIterator[None]:
    """Cancels its block when nobody waits for it any more. The body must have been read.

    Raises DeadlineExceeded at `deadline_s`, on the event loop's clock, and ClientDisconnect when
    the client disconnects.
    """
    loop = asyncio.get_running_loop()
    left = False

    async def watch() -> None:
        nonlocal left
        while (await receive())["type"] != "http.disconnect":
            pass
        with suppress(RuntimeError):  # the deadline passed first
            timeout.reschedule(loop.time())
            left = True

    try:
        async with asyncio.timeout_at(deadline_s) as timeout:
            watcher = loop.create_task(watch())
            try:
                yield
            finally:
                watcher.cancel()
    except TimeoutError as error:
        if left:
            raise ClientDisconnect from error
        raise DeadlineExceeded("the answer was not ready in time") from error
