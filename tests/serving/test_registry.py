import asyncio
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest

from models.errors import BadParameter, LabradorError, ModelUnknown, NotReady, Overloaded
from models.manifest import MODEL_FILE, Task
from models.store import Store
from serving.hardware import gpus
from serving.metrics import Metrics
from serving.registry import Registry
from serving.session import CPU
from serving.settings import Settings
from testkit import tiny_models


def _loaded(settings: Settings, metrics: Metrics, test: Callable[[Registry], None]) -> None:
    async def scenario() -> None:
        registry = Registry(settings, metrics, threads=1, worker=0)
        with pytest.raises(NotReady, match="^loading$"):
            registry.check_loaded()
        await registry.load()
        try:
            test(registry)
        finally:
            await registry.close()

    asyncio.run(scenario())


def _reason(settings: Settings, metrics: Metrics) -> str:
    reasons: list[str] = []

    def test(registry: Registry) -> None:
        registry.check_alive()
        for check in (registry.check_loaded, registry.check_ready):
            with pytest.raises(NotReady) as unready:
                check()
            reasons.append(str(unready.value))

    _loaded(settings, metrics, test)
    assert reasons[0] == reasons[1]
    assert "\n" not in reasons[0]
    return reasons[0]


def test_every_model_of_the_store_is_served(store: Path, metrics: Metrics) -> None:
    def test(registry: Registry) -> None:
        registry.check_ready()
        assert list(registry.served) == ["colours", "tags"]

    _loaded(Settings(model_store=store), metrics, test)


def test_models_and_versions_can_be_chosen(store: Path, metrics: Metrics) -> None:
    def test(registry: Registry) -> None:
        assert list(registry.served) == ["tags"]

    _loaded(Settings(model_store=store, models=("tags:1",)), metrics, test)


def test_a_corrupt_file_is_named(tmp_path: Path, metrics: Metrics) -> None:
    model = tiny_models.add(tmp_path, "colours", "single") / MODEL_FILE
    model.write_bytes(model.read_bytes()[:-1] + b"\0")
    assert f"{model} is corrupt" in _reason(Settings(model_store=tmp_path), metrics)


def test_a_network_with_other_scores_is_not_ready(tmp_path: Path, metrics: Metrics) -> None:
    tiny_models.add(tmp_path, "colours", "single", model=tiny_models.network("multi"))
    assert "scores differ by" in _reason(Settings(model_store=tmp_path), metrics)


def test_an_empty_store_is_not_ready(tmp_path: Path, metrics: Metrics) -> None:
    assert str(tmp_path) in _reason(Settings(model_store=tmp_path), metrics)


def test_a_model_that_is_not_in_the_store_is_named(store: Path, metrics: Metrics) -> None:
    settings = Settings(model_store=store, models=("colours", "pets"))
    reason = _reason(settings, metrics)
    assert "no model pets" in reason
    assert "colours, tags" in reason


@pytest.mark.skipif(gpus() > 0, reason="there is a GPU")
def test_cuda_without_a_gpu_is_not_ready_and_never_falls_back(
    store: Path, metrics: Metrics
) -> None:
    assert "no GPU" in _reason(Settings(model_store=store, device="cuda"), metrics)


def test_an_unexpected_error_is_a_reason_too(
    tmp_path: Path, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_models.add(tmp_path, "odd", "single")
    (tmp_path / "odd" / "RELEASED").unlink()
    (tmp_path / "odd" / "RELEASED").mkdir()
    reason = _reason(Settings(model_store=tmp_path), metrics)
    assert reason == "loading failed with IsADirectoryError; see the log"
    failed, unready = caplog.records
    assert (failed.name, failed.getMessage()) == ("serving.registry", "loading failed")
    assert failed.exc_info is not None
    assert unready.getMessage() == f"not ready: {reason}"


def test_the_metrics_show_which_models_are_ready(tmp_path: Path, metrics: Metrics) -> None:
    tiny_models.add(tmp_path, "at-work", "single")
    (tiny_models.add(tmp_path, "broken", "single") / MODEL_FILE).write_bytes(b"no network")
    tiny_models.add(tmp_path, "cut-off", "single")
    for name in ("broken", "cut-off"):
        metrics.model_ready.labels(name).set(7)
    _reason(Settings(model_store=tmp_path, models=("at-work:1", "broken", "cut-off:1")), metrics)
    ready = {n: metrics.model_ready.labels(n)._value.get() for n in ("at-work", "broken")}
    assert ready == {"at-work": 1, "broken": 0}
    assert metrics.model_ready.labels("cut-off")._value.get() == 0


def test_a_served_model_knows_its_path_variant_and_provider(
    tmp_path: Path, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    path = tiny_models.add(tmp_path, "described", "single")
    caplog.set_level(logging.INFO, "serving")

    def test(registry: Registry) -> None:
        served = registry.served["described"]
        assert (served.path, served.manifest.name) == (path, "described")
        assert (served.provider, served.variant.precision) == (CPU, "fp32")
        assert served.why == "auto on a CPU: the bundle has no int8"
        assert (served.batcher._max_batch, served.batcher.room) == (5, 77)

    settings = Settings(model_store=tmp_path, device="cpu", max_batch=5, max_queue=77)
    _loaded(settings, metrics, test)
    why = "auto on a CPU: the bundle has no int8"
    assert caplog.messages == [f"described:1 runs in fp32 on {CPU} ({why})"]


def test_a_models_counters_start_at_0_when_it_is_loaded(tmp_path: Path, metrics: Metrics) -> None:
    tiny_models.add(tmp_path, "begun", "single")

    def test(registry: Registry) -> None:
        text = metrics.scrape([]).decode()
        assert 'labrador_predictions_total{label="red",model="begun"} 0.0' in text

    _loaded(Settings(model_store=tmp_path), metrics, test)


def test_a_run_longer_than_a_request_may_take_is_a_dead_model(
    store: Path, metrics: Metrics
) -> None:
    def test(registry: Registry) -> None:
        batcher = registry.served["tags"].batcher
        registry.check_alive()
        batcher._run_since_s = perf_counter() - 11
        with pytest.raises(NotReady, match="^tags: its run takes longer than 10 s$"):
            registry.check_alive()
        batcher._run_since_s = None

    _loaded(Settings(model_store=store, timeout_s=10), metrics, test)


def test_a_draining_worker_is_not_ready_but_keeps_serving(store: Path, metrics: Metrics) -> None:
    def test(registry: Registry) -> None:
        registry.drain()
        registry.check_loaded()
        registry.check_alive()
        with pytest.raises(NotReady, match="^draining: this worker is about to stop$"):
            registry.check_ready()

    _loaded(Settings(model_store=store), metrics, test)


def test_the_only_model_of_a_task_needs_no_name(store: Path, metrics: Metrics) -> None:
    def test(registry: Registry) -> None:
        assert registry.choose("single", None) is registry.served["colours"]
        assert registry.choose("multi", "tags") is registry.served["tags"]

    _loaded(Settings(model_store=store), metrics, test)


@pytest.mark.parametrize(
    ("task", "name", "error", "message"),
    [
        (
            "single",
            None,
            BadParameter,
            "several models are served; choose model=colours or paints",
        ),
        ("single", "pets", ModelUnknown, "unknown model 'pets'; valid: colours, paints"),
        ("multi", "pets", ModelUnknown, "unknown model 'pets'; valid: none"),
        (
            "multi",
            None,
            ModelUnknown,
            "no multi-label model is served; GET /models lists the served models",
        ),
        ("multi", "colours", BadParameter, "colours is a single-label model: use /classify"),
    ],
)
def test_an_invalid_choice_is_refused_with_the_valid_ones(
    tmp_path: Path,
    metrics: Metrics,
    task: Task,
    name: str | None,
    error: type[LabradorError],
    message: str,
) -> None:
    tiny_models.add(tmp_path, "colours", "single")
    tiny_models.add(tmp_path, "paints", "single")

    def test(registry: Registry) -> None:
        with pytest.raises(error, match=f"^{message}$"):
            registry.choose(task, name)

    _loaded(Settings(model_store=tmp_path), metrics, test)


def test_a_multi_label_model_is_refused_for_classify_with_its_own_path(
    store: Path, metrics: Metrics
) -> None:
    def test(registry: Registry) -> None:
        with pytest.raises(BadParameter, match="^tags is a multi-label model: use /tag$"):
            registry.choose("single", "tags")

    _loaded(Settings(model_store=store), metrics, test)


def test_a_request_is_refused_before_reading_only_if_every_model_of_the_task_is_full(
    tmp_path: Path, metrics: Metrics
) -> None:
    tiny_models.add(tmp_path, "one", "single")
    tiny_models.add(tmp_path, "other", "single")
    tiny_models.add(tmp_path, "tags", "multi")

    def test(registry: Registry) -> None:
        one, other = registry.served["one"].batcher, registry.served["other"].batcher
        with one.admitted(64):
            registry.check_accepts("single")
            with other.admitted(64):
                registry.check_accepts("multi")
                with pytest.raises(Overloaded, match="64 of 64 are waiting"):
                    registry.check_accepts("single")

    _loaded(Settings(model_store=tmp_path, max_queue=64), metrics, test)


def test_a_model_that_stopped_working_is_not_ready_in_the_metrics_either(
    store: Path, metrics: Metrics
) -> None:
    ready = metrics.model_ready.labels("colours")

    def test(registry: Registry) -> None:
        registry.check_ready()
        assert ready._value.get() == 1
        registry.served["colours"].batcher._last_failed = True
        with pytest.raises(NotReady, match="colours: its last run failed"):
            registry.check_ready()
        assert ready._value.get() == 0
        registry.served["colours"].batcher._last_failed = False
        registry.check_ready()
        assert ready._value.get() == 1

    _loaded(Settings(model_store=store), metrics, test)


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
