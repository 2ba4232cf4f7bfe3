import asyncio

import pytest
import uvloop
from starlette.requests import ClientDisconnect
from starlette.types import Message

from models.errors import DeadlineExceeded, ReadTimeout
from serving.deadline import has_passed, reading, waited_for

FOREVER_S = 30


async def _stays() -> Message:
    await asyncio.sleep(FOREVER_S)
    raise AssertionError("nobody should wait so long")


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def test_slow_reading_is_a_read_timeout() -> None:
    async def test() -> None:
        async with reading(_now_s() + FOREVER_S, _now_s() + 0.01):
            await asyncio.sleep(FOREVER_S)

    with pytest.raises(ReadTimeout, match="too slowly"):
        asyncio.run(test())


@pytest.mark.parametrize("read_s", [0.01, FOREVER_S], ids=["equal", "earlier"])
def test_the_requests_own_deadline_also_applies_while_reading(read_s: float) -> None:
    async def test() -> None:
        now_s = _now_s()
        async with reading(now_s + 0.01, now_s + read_s):
            await asyncio.sleep(FOREVER_S)

    with pytest.raises(DeadlineExceeded, match="before the body arrived"):
        asyncio.run(test())


def test_work_stops_at_its_deadline() -> None:
    async def test() -> None:
        async with waited_for(_stays, _now_s() + 0.01):
            await asyncio.sleep(FOREVER_S)

    with pytest.raises(DeadlineExceeded, match="not ready in time"):
        asyncio.run(test())


def test_work_stops_when_the_client_disconnects() -> None:
    async def leaves() -> Message:
        await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}

    async def test() -> None:
        async with waited_for(leaves, _now_s() + FOREVER_S):
            await asyncio.sleep(FOREVER_S)

    with pytest.raises(ClientDisconnect):
        asyncio.run(test())


def test_a_client_that_leaves_after_the_deadline_had_its_answer_too_late() -> None:
    async def test() -> None:
        stopped = asyncio.Event()

        async def leaves() -> Message:
            await stopped.wait()
            return {"type": "http.disconnect"}

        async with waited_for(leaves, _now_s() + 0.01):
            try:
                await asyncio.sleep(FOREVER_S)
            finally:
                stopped.set()
                await asyncio.sleep(0.01)  # as work that takes a moment to stop

    with pytest.raises(DeadlineExceeded, match="not ready in time"):
        asyncio.run(test())


def test_finished_work_is_left_alone_and_leaves_no_task_behind() -> None:
    async def test() -> int:
        async with waited_for(_stays, _now_s() + FOREVER_S):
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        return len(asyncio.all_tasks())

    assert asyncio.run(test()) == 1


def test_an_error_inside_the_block_is_passed_on() -> None:
    async def test() -> None:
        async with waited_for(_stays, _now_s() + FOREVER_S):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        asyncio.run(test())


def test_what_a_deadline_cancels_is_told_from_what_a_client_left() -> None:
    """uvloop, which the service runs on, fires some timers half a millisecond too soon."""

    async def test() -> None:
        for number in range(40):
            deadline_s = _now_s() + 0.002 + number * 5e-5
            assert not has_passed(deadline_s + FOREVER_S)
            passed = None
            with pytest.raises(DeadlineExceeded):
                async with waited_for(_stays, deadline_s):
                    try:
                        await asyncio.sleep(FOREVER_S)
                    finally:
                        passed = has_passed(deadline_s)
            assert passed

    asyncio.Runner(loop_factory=uvloop.new_event_loop).run(test())
