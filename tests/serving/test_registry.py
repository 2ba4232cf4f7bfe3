import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import pytest

from models.bundle import Bundle
from models.errors import BadParameter, LabradorError, ModelUnknown, NotReady, Overloaded
from models.manifest import MODEL_FILE, Task
from models.store import Store
from serving import follower as module
from serving.follower import Follower
from serving.forms import open_proved
from serving.hardware import gpus
from serving.observability.metrics import Metrics
from serving.onnx_runtime import CPU
from serving.registry import Registry, naming
from serving.session import Place, Session
from serving.settings import Settings
from testkit import tiny_models


def _loaded(settings: Settings, metrics: Metrics, test: Callable[[Registry], None]) -> None:
    async def scenario() -> None:
        registry = Registry(settings, metrics)
        follower = Follower(settings, registry, metrics, Place(threads=1, worker=0))
        with pytest.raises(NotReady, match="^loading$"):
            registry.check_loaded()
        await follower.look()
        try:
            test(registry)
        finally:
            await registry.close()

    asyncio.run(scenario())


def _reason(settings: Settings, metrics: Metrics) -> str:
    reasons: list[str] = []

    def test(registry: Registry) -> None:
        registry.check_alive()
        for check in (
            registry.check_loaded,
            registry.check_ready,
            lambda: registry.check_accepts("single"),
        ):
            with pytest.raises(NotReady) as unready:
                check()
            reasons.append(str(unready.value))

    _loaded(settings, metrics, test)
    assert len(set(reasons)) == 1
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
        registry.check_accepts("single")  # refused once the request's model is known
        with pytest.raises(ModelUnknown):
            registry.choose("single", None)

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
    settings = Settings(model_store=store, models=("colours", "pets"), require_all_models=True)
    reason = _reason(settings, metrics)
    assert "no model pets" in reason
    assert "colours, tags" in reason


@pytest.mark.skipif(gpus() > 0, reason="there is a GPU")
def test_cuda_without_a_gpu_is_not_ready_and_never_falls_back(
    store: Path, metrics: Metrics
) -> None:
    assert "no GPU" in _reason(Settings(model_store=store, device="cuda"), metrics)


def test_a_release_that_cannot_be_read_is_a_reason_too(tmp_path: Path, metrics: Metrics) -> None:
    tiny_models.add(tmp_path, "odd", "single")
    (tmp_path / "odd" / "RELEASED").unlink()
    (tmp_path / "odd" / "RELEASED").mkdir()
    reason = _reason(Settings(model_store=tmp_path), metrics)
    assert reason.startswith("odd: [Errno 21] Is a directory")


def test_an_unexpected_error_is_a_reason_too(
    tmp_path: Path,
    metrics: Metrics,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(_: Store) -> list[str]:
        raise RuntimeError("what nobody thought of")

    monkeypatch.setattr(Store, "names", broken)
    reason = _reason(Settings(model_store=tmp_path), metrics)
    assert reason == "loading failed with RuntimeError; see the log"
    failed, unready = caplog.records
    assert (failed.name, failed.getMessage()) == ("serving.follower", "loading failed")
    assert failed.exc_info is not None
    assert unready.getMessage() == f"not ready: {reason}"


def test_the_metrics_show_which_models_are_ready(tmp_path: Path, metrics: Metrics) -> None:
    tiny_models.add(tmp_path, "at-work", "single")
    (tiny_models.add(tmp_path, "broken", "single") / MODEL_FILE).write_bytes(b"no network")
    tiny_models.add(tmp_path, "cut-off", "single")
    for name in ("broken", "cut-off"):
        metrics.model_ready.labels(name).set(7)
    (tmp_path / "cut-off" / "1" / "manifest.json").unlink()
    chosen = ("at-work:1", "broken", "cut-off:1")
    settings = Settings(model_store=tmp_path, models=chosen, require_all_models=True)
    reason = _reason(settings, metrics)
    assert "broken: " in reason and "cut-off: no model cut-off" in reason
    ready = {n.partition(":")[0]: 0.0 for n in chosen} | {"at-work": 1}
    assert {name: metrics.model_ready.labels(name)._value.get() for name in ready} == ready


def test_a_model_that_cannot_be_served_leaves_the_others_ready(
    tmp_path: Path, metrics: Metrics
) -> None:
    tiny_models.add(tmp_path, "sound", "single")
    (tiny_models.add(tmp_path, "corrupt", "single") / MODEL_FILE).write_bytes(b"no network")

    def test(registry: Registry) -> None:
        registry.check_ready()
        assert registry.choose("single", None) is registry.served["sound"]
        with pytest.raises(NotReady, match="corrupt is not served: .*model.onnx is corrupt"):
            registry.choose("single", "corrupt")
        with pytest.raises(NotReady, match="corrupt is not served: .*model.onnx is corrupt"):
            registry.named("corrupt")

    _loaded(Settings(model_store=tmp_path), metrics, test)


def test_a_served_model_knows_its_reference_variant_and_provider(
    tmp_path: Path, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_models.add(tmp_path, "described", "single")
    caplog.set_level(logging.INFO, "serving")

    def test(registry: Registry) -> None:
        served = registry.served["described"]
        assert (served.reference, served.manifest.name) == ("described:1", "described")
        assert (served.provider, served.variant.precision) == (CPU, "fp32")
        assert served.why == "auto: the bundle has only fp32 for a CPU"
        assert (served.batcher._max_batch, served.batcher.room) == (5, 77)
        assert naming(served.manifest) == {"name": "described", "version": "1"}

    settings = Settings(model_store=tmp_path, device="cpu", max_batch=5, max_queue=77)
    _loaded(settings, metrics, test)
    why = "auto: the bundle has only fp32 for a CPU"
    assert caplog.messages == [f"described:1 runs in fp32 on {CPU} ({why})"]


def test_a_workers_models_run_on_its_threads_and_gpu(
    store: Path, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[Place] = []

    def opened(bundle: Bundle, settings: Settings, place: Place) -> Session:
        places.append(place)
        return open_proved(bundle, settings, place)

    monkeypatch.setattr(module, "open_proved", opened)

    async def scenario() -> None:
        settings = Settings(model_store=store, device="cpu")
        registry = Registry(settings, metrics)
        await Follower(settings, registry, metrics, Place(threads=2, worker=3)).look()
        await registry.close()

    asyncio.run(scenario())
    assert places == [Place(threads=2, worker=3)] * 2


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
        assert registry.choose("single", "colours:1") is registry.served["colours"]
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
        (
            "single",
            "colours:2",
            ModelUnknown,
            "colours is served in version 1, not '2': use model=colours, or model=colours:1",
        ),
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
            with other.admitted(63):  # there is room for one image
                registry.check_accepts("single")
            with other.admitted(64):
                registry.check_accepts("multi")
                with pytest.raises(Overloaded, match="64 of 64 places taken"):
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
