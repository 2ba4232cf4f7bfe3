from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from testkit import image_sets
from training.data.decoding import Squares
from training.data.image_source import Cached
from training.distributed import Ranks
from training.fine_tuning import batches
from training.fine_tuning import step_timer as module
from training.fine_tuning.batches import TrainingSet
from training.fine_tuning.step_timer import Stages

CPU = torch.device("cpu")


class Clock:
    """Time passes only when a test lets it pass."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s

    def pass_(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=clock))
    return clock


@dataclass
class Slow:
    """A source that takes some time for each step."""

    inner: Cached
    seconds: float
    clock: Clock
    place: str = "a slow place"

    def batches(self, rows_of_steps: Sequence[Tensor]) -> Iterator[Squares]:
        for squares in self.inner.batches(rows_of_steps):
            self.clock.pass_(self.seconds)
            yield squares


def verdict(clock: Clock, loading_s: float, network_s: float, steps: int = 4) -> str:
    pixels = torch.zeros(steps * 2, 40, 40, 3, dtype=torch.uint8)
    source = Slow(Cached(pixels, torch.ones(len(pixels), 2)), loading_s, clock)
    training = TrainingSet(source, ["x"] * len(pixels), torch.zeros(len(pixels), dtype=torch.long))
    recipe, stages = image_sets.recipe(batch_size=2), Stages(CPU)
    rows = batches.order(training, recipe, 0)
    for _ in batches.batches(training, rows, 0, recipe, Ranks(0, 1, CPU), stages):
        clock.pass_(network_s)
        stages.lap("the network")
    return stages.verdict()


@pytest.mark.parametrize(
    ("loading_s", "network_s", "expected"),
    [
        (0.75, 0.25, "image loading (image loading 75%, the network 25%, augmentation 0%"),
        (0.1, 0.9, "the network (the network 90%, image loading 10%, augmentation 0%"),
    ],
)
def test_the_verdict_names_the_slowest_stage(
    clock: Clock, loading_s: float, network_s: float, expected: str
) -> None:
    assert (
        verdict(clock, loading_s, network_s) == f"the speed is limited by {expected} of the time)"
    )


def test_a_stage_s_seconds_are_those_it_took(clock: Clock) -> None:
    """Except for the first step, in which caches warm up."""
    stages = Stages(CPU)
    for step in range(3):
        clock.pass_(5)  # between steps: belongs to no stage
        stages.begin()
        clock.pass_(9 if step == 0 else 2)
        stages.lap("a")
        clock.pass_(step)
        stages.lap("b")
    assert stages.seconds == {"a": 4, "b": 3}


def test_one_step_is_too_few() -> None:
    stages = Stages(CPU)
    stages.begin()
    stages.lap("image loading")
    assert stages.verdict() == "too few steps to tell what limits the speed"
