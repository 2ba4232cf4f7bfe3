import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from models.errors import BadParameter, LabradorError, ModelUnknown, NotReady
from models.manifest import MODEL_FILE, Task
from serving.cores import gpus
from serving.metrics import Metrics
from serving.registry import Registry
from serving.settings import Settings
from tests import tiny


def _loaded(settings: Settings, metrics: Metrics, test: Callable[[Registry], None]) -> None:
    async def scenario() -> None:
        registry = Registry(settings, metrics, threads=1, worker=0)
        with pytest.raises(NotReady, match="loading"):
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


def test_a_changed_file_is_named(tmp_path: Path, metrics: Metrics) -> None:
    model = tiny.add(tmp_path, "colours", "single") / MODEL_FILE
    model.write_bytes(model.read_bytes()[:-1] + b"\0")
    assert f"{model} was changed" in _reason(Settings(model_store=tmp_path), metrics)


def test_a_network_with_other_scores_is_not_ready(tmp_path: Path, metrics: Metrics) -> None:
    tiny.add(tmp_path, "colours", "single", model=tiny.network("multi"))
    assert "scores differ by" in _reason(Settings(model_store=tmp_path), metrics)


def test_an_empty_store_is_not_ready(tmp_path: Path, metrics: Metrics) -> None:
    assert str(tmp_path) in _reason(Settings(model_store=tmp_path), metrics)


def test_a_model_that_is_not_in_the_store_is_named(store: Path, metrics: Metrics) -> None:
    settings = Settings(model_store=store, models=("colours", "pets"))
    reason = _reason(settings, metrics)
    assert "no model pets" in reason
    assert "colours, tags" in reason


@pytest.mark.skipif(gpus() > 0, reason="there is a GPU")
def test_cuda_without_a_gpu_is_not_ready_and_never_the_cpu(store: Path, metrics: Metrics) -> None:
    assert "no GPU" in _reason(Settings(model_store=store, device="cuda"), metrics)


def test_draining_is_not_ready_but_goes_on_serving(store: Path, metrics: Metrics) -> None:
    def test(registry: Registry) -> None:
        registry.drain()
        registry.check_loaded()
        registry.check_alive()
        with pytest.raises(NotReady, match="draining"):
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
        ("single", None, BadParameter, "several models .* model=colours or paints"),
        ("single", "pets", ModelUnknown, "no model 'pets'; served here: colours, paints"),
        ("multi", None, ModelUnknown, "no multi-label model"),
        ("multi", "colours", BadParameter, "colours is a single-label model: use /classify"),
    ],
)
def test_a_choice_that_cannot_be_is_refused_with_the_valid_ones(
    tmp_path: Path,
    metrics: Metrics,
    task: Task,
    name: str | None,
    error: type[LabradorError],
    message: str,
) -> None:
    tiny.add(tmp_path, "colours", "single")
    tiny.add(tmp_path, "paints", "single")

    def test(registry: Registry) -> None:
        with pytest.raises(error, match=message):
            registry.choose(task, name)

    _loaded(Settings(model_store=tmp_path), metrics, test)
