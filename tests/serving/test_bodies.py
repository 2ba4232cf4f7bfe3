import asyncio
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from models.errors import Overloaded
from serving import memory
from serving.bodies import Bodies
from testkit import tiny_models
from testkit.servers import get, post, serve


async def upload(room: Bodies, chunks: list[int], go: asyncio.Event | None = None) -> str:
    """Takes room for the chunks; waits for `go` before the last one, as a stuck upload."""
    try:
        with room.body() as body:
            for size in chunks[:-1]:
                body.add(size)
            if go is not None:
                await go.wait()
            body.add(chunks[-1])
            body.complete()
            return "done"
    except Overloaded as error:
        return str(error)


def test_room_is_free_again_after_each_body() -> None:
    async def scenario() -> list[str]:
        room = Bodies(10)
        return [await upload(room, [4, 6]) for _ in range(3)]

    assert asyncio.run(scenario()) == ["done"] * 3


def test_a_body_larger_than_all_of_the_room_is_refused() -> None:
    refusal = asyncio.run(upload(Bodies(2**20), [2**20, 1]))
    assert refusal == "request bodies take all of the 1 MiB that they may; try again in 1 s"


def test_the_upload_that_is_stuck_longest_gives_way() -> None:
    async def scenario() -> list[str]:
        room, go = Bodies(10), asyncio.Event()
        stuck = asyncio.create_task(upload(room, [4, 1], go))
        await asyncio.sleep(0)
        later = asyncio.create_task(upload(room, [4, 1], go))
        await asyncio.sleep(0)
        assert await upload(room, [3, 3]) == "done"  # 8 of 10 were held
        go.set()
        return [await stuck, await later]

    first, second = asyncio.run(scenario())
    assert first.startswith("request bodies take all of the")
    assert second == "done"


def test_a_chunk_makes_an_upload_the_last_to_give_way() -> None:
    async def scenario() -> list[str]:
        room = Bodies(10)
        with room.body() as active, room.body() as idle:
            idle.add(4)
            active.add(4)  # after the other: that is the stalest now
            assert list(room.arriving) == [idle, active]
            active.add(1)
            idle.add(1)
            assert list(room.arriving) == [active, idle]
        return []

    asyncio.run(scenario())


def test_complete_bodies_never_give_way_and_new_ones_are_refused_unread() -> None:
    async def scenario() -> None:
        room = Bodies(10)
        with room.body() as whole:
            whole.add(9)
            whole.complete()
            assert (await upload(room, [2])).startswith("request bodies take all")
            whole.add(1)
            with pytest.raises(Overloaded), room.body():
                raise AssertionError("it was admitted")
        assert await upload(room, [10]) == "done"

    asyncio.run(scenario())


def test_a_cancelled_request_is_not_taken_for_a_refused_one() -> None:
    async def scenario() -> None:
        room = Bodies(10)
        waiting = asyncio.create_task(upload(room, [4, 1], asyncio.Event()))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await upload(room, [10]) == "done"

    asyncio.run(scenario())


def test_memory_is_given_back_after_much_was_held(monkeypatch: pytest.MonkeyPatch) -> None:
    trimmed: list[bool] = []
    monkeypatch.setattr(memory, "give_back", lambda: trimmed.append(True))

    async def scenario() -> None:
        room = Bodies(2**30)
        await upload(room, [32 * 2**20])
        await asyncio.sleep(0.05)
        assert trimmed == []
        await upload(room, [32 * 2**20, 1])
        await upload(room, [1])
        while not trimmed:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(scenario(), 10))
    assert trimmed == [True]


def test_stuck_uploads_take_a_bounded_amount_of_memory_and_keep_nobody_out(
    tmp_path: Path, store: Path
) -> None:
    """100 clients send all of 2 MiB but the last byte, into a budget of 16 MiB."""
    size, image = 2 * 2**20, tiny_models.picture()
    head = f"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode()
    limits: dict[str, Any] = {
        "max_body_mb": 2,
        "max_bodies_mb": 16,
        "read_timeout_s": 60,
        "timeout_s": 60,
    }
    with serve(tmp_path, model_store=store, **limits) as server, ExitStack() as stack:
        assert post(f"{server.url}/classify", content=image).status_code == 200
        worker = psutil.Process(server.worker())
        before = worker.memory_info().rss
        codes = set()
        for _ in range(100):
            address = ("127.0.0.1", server.port)
            client = stack.enter_context(socket.create_connection(address, timeout=30))
            client.sendall(head + bytes(size - 1))
            codes.add(post(f"{server.url}/classify", content=image).status_code)
        held = worker.memory_info().rss - before
        assert get(f"{server.url}/readyz").status_code == 200
    assert codes == {200}
    assert held < 3 * 16 * 2**20
