"""A registry that follows the store: releases are swapped in, failures change nothing."""

import asyncio
import errno
import math
import os
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.bundle import write_atomically
from models.errors import NotReady
from models.manifest import MODEL_FILE, Manifest
from models.signing.signature import Signer
from models.store import Store
from serving import follower
from serving.aside import MOST, Aside
from serving.follower import Follower
from serving.observability.metrics import Metrics
from serving.registry import Registry
from serving.session import Place
from serving.settings import Settings
from testkit import tiny_models
from testkit.keys import key_pair

RELOAD_S = 0.02
WITHIN_S = 10
IMAGE = np.full((tiny_models.SIZE_PX, tiny_models.SIZE_PX, 3), (200, 90, 60), np.uint8)
BRIGHTER = tiny_models.WEIGHTS * 1.5  # the same labels, more confident


def _followed(
    store: Path,
    metrics: Metrics,
    scenario: Callable[[Registry], Coroutine[Any, Any, None]],
    models: tuple[str, ...] = (),
    **changes: Any,
) -> None:
    """Run the scenario with a registry that follows the store."""

    async def beside() -> None:
        given: dict[str, Any] = {"reload_s": RELOAD_S, "device": "cpu", "models": models, **changes}
        settings = Settings(model_store=store, **given)
        registry = Registry(settings, metrics)
        own = Follower(settings, registry, metrics, Place(threads=1, worker=0))
        following = asyncio.create_task(own.follow())
        try:
            await asyncio.wait_for(scenario(registry), WITHIN_S)
        finally:
            following.cancel()
            await registry.close()

    asyncio.run(beside())


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def _ready(registry: Registry) -> bool:
    try:
        registry.check_ready()
    except NotReady:
        return False
    return True


def _count(metrics: Metrics, model: str, result: str) -> float:
    return float(metrics.reloads.labels(model, result)._value.get())


def test_the_released_version_is_swapped_in_and_back(tmp_path: Path, metrics: Metrics) -> None:
    tiny_models.add(tmp_path, "swapped", "single")
    tiny_models.add(tmp_path, "swapped", "single", weights=BRIGHTER)

    async def scenario(registry: Registry) -> None:
        await _until(lambda: _ready(registry))
        loop = asyncio.get_running_loop()
        for version, weights in ((1, tiny_models.WEIGHTS), (2, BRIGHTER), (1, tiny_models.WEIGHTS)):
            Store(tmp_path).release("swapped", version)
            while registry.served["swapped"].manifest.version != version:
                await asyncio.sleep(0.01)
            registry.check_ready()
            scores = (
                await registry.served["swapped"].batcher.output(IMAGE, loop.time() + 5)
            ).scores
            expected = tiny_models.reference_scores(IMAGE[None], "single", weights)[0]
            np.testing.assert_allclose(scores, expected, atol=1e-5)
        assert _count(metrics, "swapped", "swapped") == 2

    _followed(tmp_path, metrics, scenario)


def test_requests_admitted_by_the_old_version_are_answered_by_it(
    tmp_path: Path, metrics: Metrics
) -> None:
    tiny_models.add(tmp_path, "old", "single")
    tiny_models.add(tmp_path, "old", "single", weights=BRIGHTER)

    async def scenario(registry: Registry) -> None:
        await _until(lambda: _ready(registry))
        old = registry.served["old"]
        with old.batcher.admitted(1):  # like a request whose image is still being decoded
            Store(tmp_path).release("old", 2)
            await _until(lambda: registry.served["old"] is not old)
            await asyncio.sleep(0.2)
            deadline_s = asyncio.get_running_loop().time() + 5
            scores = (await old.batcher.output(IMAGE, deadline_s)).scores
        expected = tiny_models.reference_scores(IMAGE[None], "single")[0]
        np.testing.assert_allclose(scores, expected, atol=1e-5)
        await _until(lambda: old.batcher.fault(1) == "its batcher stopped")

    _followed(tmp_path, metrics, scenario)


@pytest.mark.parametrize("fault", ["tampered", "wrong", "missing"])
def test_a_bad_version_never_replaces_a_good_one(
    fault: str, tmp_path: Path, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"kept-{fault}"
    tiny_models.add(tmp_path, name, "single")
    wrong = tiny_models.network("multi") if fault == "wrong" else None
    path = tiny_models.add(tmp_path, name, "single", model=wrong)
    tiny_models.add(tmp_path, name, "single", weights=BRIGHTER)
    if fault == "tampered":
        (path / MODEL_FILE).write_bytes(b"no network")

    async def scenario(registry: Registry) -> None:
        await _until(lambda: _ready(registry))
        if fault == "missing":
            write_atomically(tmp_path / name / "RELEASED", b"9\n")
        else:
            Store(tmp_path).release(name, 2)
        await _until(lambda: _count(metrics, name, "failed") == 1)
        await asyncio.sleep(10 * RELOAD_S)
        assert _count(metrics, name, "failed") == 1  # not at each look
        assert sum("cannot be served" in message for message in caplog.messages) == 1
        registry.check_ready()
        assert registry.served[name].manifest.version == 1
        Store(tmp_path).release(name, 3)
        await _until(lambda: registry.served[name].manifest.version == 3)

    _followed(tmp_path, metrics, scenario)


def test_a_version_that_failed_is_tried_again_after_another_was_served(
    tmp_path: Path, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_models.add(tmp_path, "again", "single")
    path = tiny_models.add(tmp_path, "again", "single", weights=BRIGHTER)
    whole = (path / MODEL_FILE).read_bytes()
    (path / MODEL_FILE).write_bytes(b"no network")

    async def scenario(registry: Registry) -> None:
        await _until(lambda: _ready(registry))
        Store(tmp_path).release("again", 2)
        await _until(lambda: _count(metrics, "again", "failed") == 1)
        Store(tmp_path).release("again", 3)
        await _until(lambda: registry.served["again"].manifest.version == 3)
        (path / MODEL_FILE).write_bytes(whole)
        Store(tmp_path).release("again", 2)
        await _until(lambda: registry.served["again"].manifest.version == 2)

    tiny_models.add(tmp_path, "again", "single")
    _followed(tmp_path, metrics, scenario)
    (message,) = (record.getMessage() for record in caplog.records)
    assert message.startswith(
        f"{path} cannot be served: BundleError: {path / MODEL_FILE} is corrupt"
    )


def test_a_store_that_cannot_be_read_for_a_while_changes_nothing(
    tmp_path: Path,
    metrics: Metrics,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tiny_models.add(tmp_path, "steady", "single")
    tiny_models.add(tmp_path, "steady", "single", weights=BRIGHTER)
    released = tmp_path / "steady" / "RELEASED"

    def unreadable(store: Store) -> list[str]:
        raise OSError("stale file handle")

    async def scenario(registry: Registry) -> None:
        await _until(lambda: _ready(registry))
        with monkeypatch.context() as broken:
            broken.setattr(Store, "names", unreadable)
            await _until(lambda: "the store cannot be read: stale file handle" in caplog.messages)
        released.unlink()
        released.mkdir()
        await _until(
            lambda: any("steady cannot be served: IsADirectoryError" in m for m in caplog.messages)
        )
        registry.check_ready()
        assert registry.served["steady"].manifest.version == 1
        released.rmdir()
        Store(tmp_path).release("steady", 2)
        await _until(lambda: registry.served["steady"].manifest.version == 2)

    _followed(tmp_path, metrics, scenario)


def test_verified_models_stay_while_a_broken_one_is_repaired(
    tmp_path: Path, metrics: Metrics
) -> None:
    tiny_models.add(tmp_path, "sound", "single")
    path = tiny_models.add(tmp_path, "unsound", "single") / MODEL_FILE
    whole = path.read_bytes()
    path.write_bytes(b"no network")

    async def scenario(registry: Registry) -> None:
        await _until(lambda: "sound" in registry.served)
        sound = registry.served["sound"]
        await _until(lambda: "unsound" in registry.not_served and registry.problem is None)
        registry.check_ready()
        assert f"{path} is corrupt" in registry.not_served["unsound"]
        path.write_bytes(whole)
        await _until(lambda: "unsound" in registry.served)
        assert registry.not_served == {}
        assert registry.served["sound"] is sound

    _followed(tmp_path, metrics, scenario)


def test_only_the_chosen_versions_are_followed(tmp_path: Path, metrics: Metrics) -> None:
    for name in ("fixed", "moving", "other"):
        tiny_models.add(tmp_path, name, "single")
        tiny_models.add(tmp_path, name, "single", weights=BRIGHTER)

    async def scenario(registry: Registry) -> None:
        await _until(lambda: _ready(registry))
        for name in ("fixed", "moving", "other"):
            Store(tmp_path).release(name, 2)
        await _until(lambda: registry.served["moving"].manifest.version == 2)
        await asyncio.sleep(3 * RELOAD_S)
        assert registry.served["fixed"].manifest.version == 1
        assert list(registry.served) == ["fixed", "moving"]
        assert _count(metrics, "fixed", "swapped") == 0

    _followed(tmp_path, metrics, scenario, models=("fixed:1", "moving"))


def test_closing_does_not_wait_for_an_old_versions_images(tmp_path: Path, metrics: Metrics) -> None:
    tiny_models.add(tmp_path, "held", "single")
    tiny_models.add(tmp_path, "held", "single", weights=BRIGHTER)

    async def scenario(registry: Registry) -> None:
        await _until(lambda: _ready(registry))
        old = registry.served["held"]
        with old.batcher.admitted(1):
            Store(tmp_path).release("held", 2)
            await _until(lambda: registry.served["held"] is not old)
            (retiring,) = registry._retiring
            await registry.close()
            await asyncio.wait([retiring])
            assert retiring.cancelled()
        await _until(lambda: not registry._retiring)
        assert registry.served["held"].batcher.fault(1) == "its batcher stopped"

    _followed(tmp_path, metrics, scenario)


def test_a_new_model_of_the_store_is_served_too(tmp_path: Path, metrics: Metrics) -> None:
    tiny_models.add(tmp_path, "first", "single")

    async def scenario(registry: Registry) -> None:
        await _until(lambda: _ready(registry))
        tiny_models.add(tmp_path, "second", "multi")
        await _until(lambda: "second" in registry.served)
        assert registry.choose("multi", None).manifest.name == "second"
        assert metrics.model_ready.labels("second")._value.get() == 1
        tiny_models.add(tmp_path, "third", "single")  # the store is still followed
        await _until(lambda: "third" in registry.served)

    _followed(tmp_path, metrics, scenario)


def test_an_empty_store_becomes_ready_once_it_is_filled(tmp_path: Path, metrics: Metrics) -> None:
    async def scenario(registry: Registry) -> None:
        await asyncio.sleep(5 * RELOAD_S)
        assert not _ready(registry)
        tiny_models.add(tmp_path, "late", "single")
        await _until(lambda: _ready(registry))

    _followed(tmp_path, metrics, scenario)


def test_without_reload_nothing_is_swapped(tmp_path: Path, metrics: Metrics) -> None:
    tiny_models.add(tmp_path, "stays", "single")
    tiny_models.add(tmp_path, "stays", "single", weights=BRIGHTER)

    async def scenario() -> None:
        settings = Settings(model_store=tmp_path)
        registry = Registry(settings, metrics)
        own = Follower(settings, registry, metrics, Place(threads=1, worker=0))
        await own.follow()  # returns: there is nothing to follow
        Store(tmp_path).release("stays", 2)
        await asyncio.sleep(0.1)
        assert registry.served["stays"].manifest.version == 1
        await registry.close()

    asyncio.run(scenario())


# A store that is slow, wrong or gone.


def test_a_store_that_hangs_keeps_nobody_waiting_and_is_followed_again_afterwards(
    tmp_path: Path, metrics: Metrics
) -> None:
    """A FIFO in the place of RELEASED: to open it waits for a writer that never comes."""
    tiny_models.add(tmp_path, "hung", "single")
    tiny_models.add(tmp_path, "hung", "single", weights=BRIGHTER)
    released = tmp_path / "hung" / "RELEASED"

    async def scenario(registry: Registry) -> None:
        await _until(lambda: _ready(registry))
        before = metrics.store_failures._value.get()
        released.unlink()
        os.mkfifo(released)
        await _until(lambda: metrics.store_failures._value.get() >= before + 2)
        registry.check_ready()
        loop = asyncio.get_running_loop()
        scores = (await registry.served["hung"].batcher.output(IMAGE, loop.time() + 5)).scores
        expected = tiny_models.reference_scores(IMAGE[None], "single")[0]
        np.testing.assert_allclose(scores, expected, atol=1e-5)
        released.unlink()
        Store(tmp_path).release("hung", 2)
        await _until(lambda: registry.served["hung"].manifest.version == 2)

    _followed(tmp_path, metrics, scenario, store_timeout_s=0.05)


@pytest.mark.parametrize("models", [(), ("seen",)], ids=["all", "chosen"])
def test_a_store_of_which_no_model_can_be_read_was_not_seen(
    models: tuple[str, ...], tmp_path: Path, metrics: Metrics
) -> None:
    tiny_models.add(tmp_path, "seen", "single")
    released = tmp_path / "seen" / "RELEASED"

    async def looks() -> None:
        settings = Settings(model_store=tmp_path, reload_s=1, device="cpu", models=models)
        registry = Registry(settings, metrics)
        own = Follower(settings, registry, metrics, Place(threads=1, worker=0))

        async def look() -> tuple[float, float]:
            """When the store was seen, and how often that failed."""
            before = metrics.store_failures._value.get()
            metrics.store_seen.set(7)
            await own.look()
            registry.check_ready()
            failures = metrics.store_failures._value.get() - before
            return metrics.store_seen._value.get(), failures

        seen_s, failures = await look()
        assert (seen_s > 7, failures) == (True, 0)
        released.unlink()
        released.mkdir()  # answers with an error
        assert await look() == (7, 1)
        (tmp_path / "seen").rename(tmp_path / ".seen")  # empty, as a volume that is not mounted
        assert await look() == (7, 1)
        (tmp_path / ".seen").rename(tmp_path / "seen")
        released.rmdir()
        released.write_text("1\n")
        seen_s, failures = await look()
        assert (seen_s > 7, failures) == (True, 0)
        await registry.close()

    asyncio.run(looks())


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.ENOTCONN])
def test_a_version_that_cannot_be_read_once_is_tried_again(
    number: int, tmp_path: Path, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"flaky-{number}"
    tiny_models.add(tmp_path, name, "single")
    path = tiny_models.add(tmp_path, name, "single", weights=BRIGHTER)
    read, left = Path.read_bytes, 2

    def fails_twice(file: Path) -> bytes:
        nonlocal left
        if file == path / MODEL_FILE and left:
            left -= 1
            raise OSError(number, os.strerror(number), str(file))
        return read(file)

    monkeypatch.setattr(Path, "read_bytes", fails_twice)

    async def scenario(registry: Registry) -> None:
        await _until(lambda: _ready(registry))
        Store(tmp_path).release(name, 2)
        await _until(lambda: registry.served[name].manifest.version == 2)
        assert left == 0
        assert _count(metrics, name, "failed") == 0

    _followed(tmp_path, metrics, scenario)


def test_the_version_before_is_served_where_the_released_one_is_corrupt(
    tmp_path: Path, metrics: Metrics
) -> None:
    tiny_models.add(tmp_path, "bad-night", "single")
    path = tiny_models.add(tmp_path, "bad-night", "single", weights=BRIGHTER, replaced=1)
    (path / MODEL_FILE).write_bytes(b"no network")
    Store(tmp_path).release("bad-night", 2)

    async def scenario(registry: Registry) -> None:
        await _until(lambda: _ready(registry))
        assert registry.served["bad-night"].manifest.version == 1
        await asyncio.sleep(5 * RELOAD_S)
        assert _count(metrics, "bad-night", "failed") == 1  # tried once
        tiny_models.add(tmp_path, "bad-night", "single", weights=BRIGHTER)
        Store(tmp_path).release("bad-night", 3)
        await _until(lambda: registry.served["bad-night"].manifest.version == 3)

    _followed(tmp_path, metrics, scenario)


@pytest.mark.parametrize("fault", ["garbled", "unreadable"])
def test_keys_that_cannot_be_used_for_a_while_change_nothing(
    fault: str, tmp_path: Path, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    private, store = key_pair(tmp_path / "key"), tmp_path / "store"
    trust, name = private.with_suffix(".pub"), f"signed-{fault}"
    for weights in (tiny_models.WEIGHTS, BRIGHTER):

        def make(
            version: int, weights: NDArray[np.float32] = weights
        ) -> tuple[Manifest, dict[str, bytes]]:
            return tiny_models.content(name, version, "single", weights=weights)

        Store(store).add(name, make, Signer(private))
    tiny_models.add(store, name, "single")

    async def scenario(registry: Registry) -> None:
        await _until(lambda: _ready(registry))
        before = metrics.store_failures._value.get()
        trust.replace(tmp_path / "kept.pub")
        if fault == "garbled":
            trust.write_bytes(b"garbled")
        else:
            trust.symlink_to(trust)
        Store(store).release(name, 2)
        await _until(lambda: any("KeysError: " in m for m in caplog.messages))
        registry.check_ready()
        assert registry.served[name].manifest.version == 1
        assert _count(metrics, name, "failed") == 1
        assert metrics.store_failures._value.get() == before
        (tmp_path / "kept.pub").replace(trust)
        await _until(lambda: registry.served[name].manifest.version == 2)
        Store(store).release(name, 3)  # nobody has signed it
        await _until(lambda: _count(metrics, name, "failed") == 2)
        registry.check_ready()
        assert registry.served[name].manifest.version == 2

    _followed(store, metrics, scenario, trust=trust)


def test_a_version_that_does_not_fit_into_memory_beside_the_served_one_waits(
    tmp_path: Path,
    metrics: Metrics,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tiny_models.add(tmp_path, "large", "single")
    tiny_models.add(tmp_path, "large", "single", weights=BRIGHTER)
    free, looks = 1000.0, 0

    def less_and_less() -> float:
        nonlocal looks
        looks += 1
        return free - looks

    monkeypatch.setattr(follower, "free_memory", less_and_less)

    async def scenario(registry: Registry) -> None:
        nonlocal free
        await _until(lambda: _ready(registry))  # the first one is loaded in any case
        before = metrics.store_failures._value.get()
        Store(tmp_path).release("large", 2)
        await _until(lambda: looks >= 3)
        assert registry.served["large"].manifest.version == 1
        assert _count(metrics, "large", "failed") == 1
        assert metrics.store_failures._value.get() == before
        (message,) = caplog.messages
        path = tmp_path / "large" / "2"
        assert message.startswith(f"{path} cannot be served: NoRoomError: it needs about 0 MiB to")
        free = math.inf
        await _until(lambda: registry.served["large"].manifest.version == 2)

    _followed(tmp_path, metrics, scenario)


def test_without_reload_a_missing_model_is_waited_for(tmp_path: Path, metrics: Metrics) -> None:
    async def scenario(registry: Registry) -> None:
        await _until(lambda: "no model" in str(registry.problem))
        tiny_models.add(tmp_path, "late", "single")
        await _until(lambda: _ready(registry))

    _followed(tmp_path, metrics, scenario, reload_s=0)


def test_without_reload_nothing_is_swapped_while_another_model_is_waited_for(
    tmp_path: Path, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "_RETRY_S", RELOAD_S)
    for weights in (tiny_models.WEIGHTS, BRIGHTER):
        tiny_models.add(tmp_path, "stays", "single", weights=weights)
    path = tiny_models.add(tmp_path, "unsound", "single") / MODEL_FILE
    whole = path.read_bytes()
    path.write_bytes(b"no network")

    async def scenario(registry: Registry) -> None:
        await _until(lambda: "stays" in registry.served and "unsound" in registry.not_served)
        Store(tmp_path).release("stays", 2)
        path.write_bytes(whole)
        await _until(lambda: "unsound" in registry.served)
        assert registry.served["stays"].manifest.version == 1

    _followed(tmp_path, metrics, scenario, reload_s=0)


def test_looks_at_a_failing_store_become_rarer_and_never_coincide(
    tmp_path: Path, metrics: Metrics
) -> None:
    settings = Settings(model_store=tmp_path, reload_s=5)
    made = Follower(settings, Registry(settings, metrics), metrics, Place(threads=1, worker=0))
    pauses = [made._pause_s() for _ in range(100)]
    assert 4 <= min(pauses) < max(pauses) <= 6
    assert len(set(pauses)) == 100
    for _ in range(8):
        asyncio.run(made.look())
    assert 48 <= made._pause_s() <= 72


def test_threads_that_hang_are_limited() -> None:
    end = threading.Event()

    async def scenario() -> None:
        aside = Aside()
        for _ in range(MOST):
            with pytest.raises(TimeoutError, match="no answer within 0.001 s"):
                await aside.run(end.wait, 0.001)
        with pytest.raises(TimeoutError, match=f"{MOST} earlier attempts hang"):
            await aside.run(lambda: True, 5)
        end.set()
        while True:
            try:
                assert await aside.run(lambda: 7, 5) == 7
                break
            except TimeoutError:
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(scenario(), 30))
