"""A registry that follows the store: releases are swapped in, failures change nothing."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.errors import NotReady
from models.manifest import MODEL_FILE
from models.store import Store
from serving.metrics import Metrics
from serving.registry import Registry
from serving.settings import Settings
from testkit import tiny_models

RELOAD_S = 0.02
WITHIN_S = 10
IMAGE = np.full((tiny_models.SIZE_PX, tiny_models.SIZE_PX, 3), (200, 90, 60), np.uint8)
BRIGHTER = tiny_models.WEIGHTS * 1.5  # the same labels, more confident


def _followed(
    store: Path,
    metrics: Metrics,
    scenario: Callable[[Registry], Coroutine[Any, Any, None]],
    models: tuple[str, ...] = (),
) -> None:
    """Run the scenario with a registry that follows the store."""

    async def beside() -> None:
        settings = Settings(model_store=store, reload_s=RELOAD_S, device="cpu", models=models)
        registry = Registry(settings, metrics, threads=1, worker=0)
        following = asyncio.create_task(registry.follow())
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
            scores = await registry.served["swapped"].batcher.scores(IMAGE, loop.time() + 5)
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
            scores = await old.batcher.scores(IMAGE, deadline_s)
        expected = tiny_models.reference_scores(IMAGE[None], "single")[0]
        np.testing.assert_allclose(scores, expected, atol=1e-5)
        await _until(lambda: old.batcher.fault(1) == "its batcher stopped")

    _followed(tmp_path, metrics, scenario)


@pytest.mark.parametrize("fault", ["tampered", "wrong", "missing"])
def test_a_bad_version_never_replaces_a_good_one(
    fault: str, tmp_path: Path, metrics: Metrics
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
            (tmp_path / name / "RELEASED").write_text("9\n")
            await asyncio.sleep(10 * RELOAD_S)
        else:
            Store(tmp_path).release(name, 2)
            await _until(lambda: _count(metrics, name, "failed") == 1)
            await asyncio.sleep(10 * RELOAD_S)
            assert _count(metrics, name, "failed") == 1  # tried once, not at each check
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
    assert message.startswith(f"{path} is not served: BundleError: {path / MODEL_FILE} is corrupt")


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
            lambda: any(m.startswith("steady: [Errno 21] Is a dir") for m in caplog.messages)
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
        await asyncio.sleep(3 * RELOAD_S)
        assert not _ready(registry)
        path.write_bytes(whole)
        await _until(lambda: _ready(registry))
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
        registry = Registry(Settings(model_store=tmp_path), metrics, threads=1, worker=0)
        await registry.follow()  # returns: there is nothing to follow
        Store(tmp_path).release("stays", 2)
        await asyncio.sleep(0.1)
        assert registry.served["stays"].manifest.version == 1
        await registry.close()

    asyncio.run(scenario())
