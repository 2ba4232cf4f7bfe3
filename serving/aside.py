"""Work that may hang, as reading a network volume does, on threads that nothing waits for."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")

MOST = 8  # threads that may hang at once


class Aside:
    """Runs work on daemon threads, which never keep the process from ending."""

    def __init__(self) -> None:
        self._hanging = 0

    async def run(self, work: Callable[[], Result], limit_s: float) -> Result:
        """What `work` returns or raises.

        Raises TimeoutError if that takes longer than `limit_s`, and at once if earlier work hangs
        on `MOST` threads. Work that is late has its result dropped.
        """
        if self._hanging >= MOST:
            raise TimeoutError(f"{MOST} earlier attempts hang")
        result = _on_thread(work)
        done, _ = await asyncio.wait([result], timeout=limit_s)
        if done:
            return result.result()
        self._hanging += 1
        result.add_done_callback(self._ended)
        raise TimeoutError(f"no answer within {limit_s:g} s")

    def _ended(self, late: "asyncio.Future[Result]") -> None:
        self._hanging -= 1
        if not late.cancelled():
            late.exception()  # nobody else looks at it


def _on_thread(work: Callable[[], Result]) -> "asyncio.Future[Result]":
    result: Future[Result] = Future()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, name="aside", daemon=True).start()
    return asyncio.wrap_future(result)
