import asyncio
import gc
import threading
import weakref
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from models.errors import DeadlineExceeded, Overloaded
from models.outputs import Output, Outputs
from serving.batcher import Batcher, Run
from serving.observability.metrics import Metrics

if TYPE_CHECKING:  # the library chooses its storage when it is imported, which `Metrics` does
    from prometheus_client import Histogram

Scores = NDArray[np.float32]

NEVER_S = 1e9
NAME = "colours"


class Model:
    """Scores an image by its first pixel; if `held`, every run waits until `go` is set."""

    def __init__(self, held: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.threads: list[str] = []
        self.fetched: list[bool] = []  # whether each run fetched maps
        self.started = threading.Semaphore(0)
        self.go = threading.Event()
        if not held:
            self.go.set()

    def __call__(self, images: NDArray[np.uint8], maps: bool) -> Outputs:
        self.batches.append(images[:, 0, 0, 0].tolist())
        self.threads.append(threading.current_thread().name)
        self.started.release()
        self.fetched.append(maps)
        self.go.wait(10)
        return _seen(images, maps)


def _seen(images: NDArray[np.uint8], maps: bool) -> Outputs:
    """An image's novelty is its first pixel, a hundred times as large; a map its scores, ten."""
    scores = images[:, 0, 0, :].astype(np.float32)
    return Outputs(scores, 100 * scores[:, 0], 10 * scores[..., None, None] if maps else None)


def _image(number: int) -> NDArray[np.uint8]:
    return np.full((2, 2, 3), number, np.uint8)


def _run(
    test: Callable[[Batcher], Awaitable[None]],
    model: Run,
    metrics: Metrics,
    max_batch: int = 4,
    max_queue: int = 64,
) -> None:
    async def scenario() -> None:
        batcher = Batcher(model, metrics.of(NAME), max_batch, max_queue)
        try:
            await test(batcher)
        finally:
            await batcher.close()

    asyncio.run(asyncio.wait_for(scenario(), 20))


def _ask(batcher: Batcher, *numbers: int) -> list[asyncio.Task[Scores]]:
    return [asyncio.ensure_future(_scores(batcher, n)) for n in numbers]


async def _scores(batcher: Batcher, number: int, deadline_s: float = NEVER_S) -> Scores:
    return (await batcher.output(_image(number), deadline_s)).scores


async def _started(model: Model) -> None:
    await asyncio.to_thread(model.started.acquire)


def test_a_single_image_runs_at_once_and_alone(metrics: Metrics) -> None:
    model = Model()

    async def test(batcher: Batcher) -> None:
        for number in range(3):
            assert (await _scores(batcher, number)).tolist() == [number] * 3

    _run(test, model, metrics)
    assert model.batches == [[0], [1], [2]]


def test_images_that_queue_while_the_model_runs_become_batches_in_order(metrics: Metrics) -> None:
    model = Model(held=True)

    async def test(batcher: Batcher) -> None:
        tasks = _ask(batcher, 0)
        await _started(model)
        tasks += _ask(batcher, *range(1, 8))
        await asyncio.sleep(0)
        model.go.set()
        rows = await asyncio.gather(*tasks)
        assert [row.tolist() for row in rows] == [[n] * 3 for n in range(8)]

    _run(test, model, metrics)
    assert model.batches == [[0], [1, 2, 3, 4], [5, 6, 7]]


def test_an_abandoned_image_never_reaches_the_model(metrics: Metrics) -> None:
    model = Model(held=True)
    before = metrics.dropped.labels("disconnected")._value.get()

    async def test(batcher: Batcher) -> None:
        first, *waiting = _ask(batcher, 0)
        await _started(model)
        waiting = _ask(batcher, 1, 2, 3)
        await asyncio.sleep(0)
        waiting[1].cancel()
        await asyncio.wait([waiting[1]])
        assert waiting[1].cancelled()
        # it was dropped at once, while the model still runs
        assert metrics.of(NAME).queue_images._value.get() == 2
        assert metrics.dropped.labels("disconnected")._value.get() == before + 1
        model.go.set()
        await asyncio.gather(first, waiting[0], waiting[2])

    _run(test, model, metrics)
    assert model.batches == [[0], [1, 3]]
    assert metrics.dropped.labels("disconnected")._value.get() == before + 1


def test_an_image_abandoned_just_before_its_run_never_reaches_the_model(
    metrics: Metrics,
) -> None:
    model = Model()

    async def test(batcher: Batcher) -> None:
        (task,) = _ask(batcher, 0)
        await asyncio.sleep(0)  # it is queued now, and the batcher wakes up next
        task.cancel()
        await asyncio.wait([task])
        assert (await _scores(batcher, 1)).tolist() == [1] * 3
        assert batcher.fault(timeout_s=60) is None

    _run(test, model, metrics)
    assert model.batches == [[1]]


def test_an_expired_image_never_reaches_the_model(metrics: Metrics) -> None:
    model = Model(held=True)
    before = metrics.dropped.labels("expired")._value.get()

    async def test(batcher: Batcher) -> None:
        tasks = _ask(batcher, 0)
        await _started(model)
        soon = asyncio.get_running_loop().time() + 0.01
        late = asyncio.ensure_future(_scores(batcher, 1, soon))
        tasks += _ask(batcher, 2)
        await asyncio.sleep(0.05)
        model.go.set()
        await asyncio.gather(*tasks)
        with pytest.raises(DeadlineExceeded, match="^the image waited too long$"):
            await late

    _run(test, model, metrics)
    assert model.batches == [[0], [2]]
    assert metrics.dropped.labels("expired")._value.get() == before + 1


def test_the_model_does_not_run_if_every_waiting_image_has_expired(metrics: Metrics) -> None:
    model = Model()

    async def test(batcher: Batcher) -> None:
        assert batcher.fault(timeout_s=60) is None
        past_s = asyncio.get_running_loop().time() - 1
        for _ in range(2):
            with pytest.raises(DeadlineExceeded):
                await _scores(batcher, 1, past_s)
        await asyncio.sleep(0)
        assert batcher.fault(timeout_s=60) is None

    _run(test, model, metrics)
    assert model.batches == []


def test_a_client_that_disconnects_during_its_run_affects_no_other(metrics: Metrics) -> None:
    model = Model(held=True)

    async def test(batcher: Batcher) -> None:
        (first,) = _ask(batcher, 0)
        await _started(model)
        first.cancel()
        (second,) = _ask(batcher, 1)
        await asyncio.sleep(0)
        model.go.set()
        assert (await second).tolist() == [1] * 3

    _run(test, model, metrics)


def test_the_images_held_and_their_limit_are_exported_by_model(metrics: Metrics) -> None:
    own = metrics.of(NAME)

    async def test(batcher: Batcher) -> None:
        with batcher.admitted(3), batcher.admitted(2):
            assert own.held_images._value.get() == 5
        assert own.held_images._value.get() == 0

    _run(test, Model(), metrics, max_queue=64)
    assert own.held_images_limit._value.get() == 64
    assert metrics.of("another").held_images_limit._value.get() == 0


def test_a_full_queue_refuses_and_says_when_to_try_again(metrics: Metrics) -> None:
    async def test(batcher: Batcher) -> None:
        with batcher.admitted(60), batcher.admitted(4):
            assert batcher.room == 0
            with pytest.raises(
                Overloaded, match="^no room for 1 more image: 64 of 64 places taken;"
            ):
                batcher.check_room(1)
            with pytest.raises(Overloaded), batcher.admitted(1):
                raise AssertionError("it was admitted")
        with batcher.admitted(64):
            pass
        assert batcher.room == 64

    _run(test, Model(), metrics)


def test_retry_after_is_the_estimated_time_for_the_waiting_images(metrics: Metrics) -> None:
    def retry_after_s(batcher: Batcher, held: int) -> int:
        with batcher.admitted(held), pytest.raises(Overloaded) as refusal:
            batcher.check_room(65)
        assert str(refusal.value) == (
            f"no room for 65 more images: {held} of 64 places taken;"
            f" try again in {refusal.value.retry_after_s} s"
        )
        return refusal.value.retry_after_s

    async def test(batcher: Batcher) -> None:
        batcher._measure(4, 1.0)  # the first run: 0.25 s per image
        assert retry_after_s(batcher, held=20) == 5
        assert retry_after_s(batcher, held=21) == 6
        batcher._measure(2, 1.0)  # a later one has a weight of a fifth: 0.3 s per image
        assert retry_after_s(batcher, held=19) == 6
        assert retry_after_s(batcher, held=1) == 1
        assert retry_after_s(batcher, held=0) == 1
        batcher._measure(1, 100.0)
        assert retry_after_s(batcher, held=64) == 60

    _run(test, Model(), metrics)


def test_the_time_per_image_is_measured_from_the_runs(metrics: Metrics) -> None:
    inner_s = 0.0

    def slow(images: NDArray[np.uint8], maps: bool) -> Outputs:
        nonlocal inner_s
        began_s = perf_counter()
        threading.Event().wait(0.01)
        inner_s = perf_counter() - began_s
        return _seen(images, maps)

    async def test(batcher: Batcher) -> None:
        began_s = perf_counter()
        await asyncio.gather(*_ask(batcher, 0, 1))  # one run
        assert inner_s <= 2 * batcher._image_s <= perf_counter() - began_s

    _run(test, slow, metrics)


def test_queued_images_and_runs_are_counted(metrics: Metrics) -> None:
    model = Model(held=True)

    def count(histogram: "Histogram") -> float:
        return sum(float(bucket.get()) for bucket in histogram._buckets)

    own, other = metrics.of(NAME), metrics.of("another")
    stages = [own.queue_seconds, own.infer_seconds, own.batch_size, other.infer_seconds]
    before = [count(histogram) for histogram in stages]
    ran = own.batch_size._sum.get()
    waited_s, began_s = own.queue_seconds._sum.get(), perf_counter()

    async def test(batcher: Batcher) -> None:
        tasks = _ask(batcher, 0)
        await _started(model)
        tasks += _ask(batcher, 1, 2, 3)
        await asyncio.sleep(0)
        assert own.queue_images._value.get() == 3
        model.go.set()
        await asyncio.gather(*tasks)
        assert own.queue_images._value.get() == 0

    _run(test, model, metrics)
    after = [count(histogram) for histogram in stages]
    assert [new - old for new, old in zip(after, before, strict=True)] == [4, 2, 2, 0]
    assert own.batch_size._sum.get() == ran + 4
    waited_s = own.queue_seconds._sum.get() - waited_s
    assert 0 < waited_s < 4 * (perf_counter() - began_s)


def test_a_retiring_batcher_answers_what_it_admitted_and_stops(metrics: Metrics) -> None:
    model = Model(held=True)

    async def test() -> None:
        batcher = Batcher(model, metrics.of(NAME), max_batch=4, max_queue=64)
        with batcher.admitted(1):
            (task,) = _ask(batcher, 7)
            await _started(model)
            retiring = asyncio.ensure_future(batcher.retire())
            await asyncio.sleep(0)
            assert batcher.fault(timeout_s=60) is None
            model.go.set()
            assert (await task).tolist() == [7] * 3
            assert not retiring.done()
        await retiring
        assert batcher.fault(timeout_s=60) == "its batcher stopped"

    asyncio.run(asyncio.wait_for(test(), 20))
    assert [name for name in model.threads if not name.startswith("model")] == []
    assert not {thread.name for thread in threading.enumerate()} & set(model.threads)


@pytest.mark.parametrize("closing", ["retire", "close"])
def test_a_run_that_outlives_its_request_does_not_hold_up_the_loop(
    closing: str, metrics: Metrics
) -> None:
    model = Model(held=True)

    async def test() -> None:
        batcher = Batcher(model, metrics.of(NAME), max_batch=4, max_queue=64)
        (task,) = _ask(batcher, 7)
        await _started(model)
        task.cancel()
        await asyncio.wait([task])
        (thread,) = batcher._thread._threads
        if closing == "close":
            await batcher.close()
            assert thread.is_alive()
        else:
            retiring = asyncio.ensure_future(batcher.retire())
            await asyncio.sleep(0.1)
            assert thread.is_alive() and not retiring.done()
        model.go.set()
        if closing == "retire":
            await retiring
        await asyncio.to_thread(thread.join, 10)
        assert not thread.is_alive()
        assert batcher.fault(timeout_s=60) == "its batcher stopped"

    asyncio.run(asyncio.wait_for(test(), 30))


def test_a_batcher_has_stopped_when_its_closing_returns(metrics: Metrics) -> None:
    async def test() -> None:
        batcher = Batcher(Model(), metrics.of(NAME), max_batch=4, max_queue=64)
        await batcher.close()
        assert batcher.fault(timeout_s=60) == "its batcher stopped"

    asyncio.run(test())


def test_a_failed_run_fails_its_images_and_is_a_fault_until_one_succeeds(metrics: Metrics) -> None:
    broken = True

    def fragile(images: NDArray[np.uint8], maps: bool) -> Outputs:
        if broken:
            raise RuntimeError("device lost")
        return _seen(images, maps)

    async def test(batcher: Batcher) -> None:
        nonlocal broken
        with pytest.raises(RuntimeError, match="device lost"):
            await _scores(batcher, 0)
        assert batcher.fault(timeout_s=60) == "its last run failed"
        broken = False
        await _scores(batcher, 0)
        assert batcher.fault(timeout_s=60) is None

    _run(test, fragile, metrics)


def test_a_failed_run_with_a_disconnected_client_fails_the_others(metrics: Metrics) -> None:
    model = Model(held=True)

    def fragile(images: NDArray[np.uint8], maps: bool) -> Outputs:
        outputs = model(images, maps)
        if len(images) == 2:
            raise RuntimeError("device lost")
        return outputs

    async def test(batcher: Batcher) -> None:
        left, failed = _ask(batcher, 1, 2)  # one run
        await _started(model)
        left.cancel()
        await asyncio.wait([left])
        model.go.set()
        with pytest.raises(RuntimeError, match="device lost"):
            await failed
        assert (await _scores(batcher, 3)).tolist() == [3] * 3

    _run(test, fragile, metrics)


def test_a_model_that_returns_too_few_scores_is_a_fault(metrics: Metrics) -> None:
    def lossy(images: NDArray[np.uint8], maps: bool) -> Outputs:
        return _seen(images[1:], maps)

    async def test(batcher: Batcher) -> None:
        (task,) = _ask(batcher, 0)
        await asyncio.wait([batcher._feeding])
        assert batcher.fault(timeout_s=60) == "its batcher stopped"
        task.cancel()
        await batcher.retire()  # waits for nothing that never comes

    _run(test, lossy, metrics)


def test_a_run_that_does_not_end_is_a_fault(metrics: Metrics) -> None:
    model = Model(held=True)

    async def test(batcher: Batcher) -> None:
        (task,) = _ask(batcher, 0)
        await _started(model)
        assert batcher.fault(timeout_s=60) is None
        await asyncio.sleep(0.02)
        assert batcher.fault(timeout_s=0.01) == "its run takes longer than 0.01 s"
        model.go.set()
        await task

    _run(test, model, metrics)


def test_a_closed_batcher_no_longer_holds_the_model(metrics: Metrics) -> None:
    """An hour of swaps would keep the sessions of many versions otherwise."""

    async def scenario() -> None:
        model = Model()
        batcher = Batcher(model, metrics.of(NAME), max_batch=4, max_queue=64)
        await _scores(batcher, 1)
        held = weakref.ref(model)
        del model
        assert held() is not None
        await batcher.close()
        assert held() is None

    gc.disable()
    try:
        asyncio.run(asyncio.wait_for(scenario(), 20))
    finally:
        gc.enable()


def test_a_batch_fetches_maps_only_if_an_image_in_it_asks_for_them(metrics: Metrics) -> None:
    model = Model(held=True)

    async def test(batcher: Batcher) -> None:
        first = _ask(batcher, 1)
        await _started(model)
        second = asyncio.ensure_future(batcher.output(_image(2), NEVER_S, maps=True))
        third = _ask(batcher, 3)  # in the same batch
        model.go.set()
        await first[0]
        found = await second
        assert found.maps is not None
        assert (found.scores.tolist(), found.maps.ravel().tolist()) == ([2] * 3, [20] * 3)
        assert (await third[0]).tolist() == [3] * 3
        assert (await _scores(batcher, 4)).tolist() == [4] * 3

    _run(test, model, metrics)
    assert (model.batches, model.fetched) == ([[1], [2, 3], [4]], [False, True, False])


def test_each_image_of_a_batch_gets_its_own_novelty_from_the_same_run(metrics: Metrics) -> None:
    model = Model(held=True)

    async def test(batcher: Batcher) -> None:
        first = _ask(batcher, 1)
        await _started(model)
        tasks = [
            asyncio.ensure_future(batcher.output(_image(number), NEVER_S)) for number in (2, 3)
        ]
        await asyncio.sleep(0)
        model.go.set()
        found: list[Output] = await asyncio.gather(*tasks)
        assert [output.novelty for output in found] == [200, 300]
        await first[0]

    _run(test, model, metrics)
    assert model.batches == [[1], [2, 3]]
