import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from tests.training import samples
from training import batches
from training.batches import Training
from training.feed import Cached
from training.pictures import Squares
from training.ranks import Ranks
from training.stages import Stages

CPU = torch.device("cpu")


def shares(verdict: str) -> dict[str, int]:
    return {
        name: int(share) for name, share in re.findall(r"(the \w+|augmentation) (\d+)%", verdict)
    }


@dataclass
class Slow:
    """A feed that takes its time over each step."""

    inner: Cached
    seconds: float
    place: str = "a slow place"

    def batches(self, rows_of_steps: Sequence[Tensor]) -> Iterator[Squares]:
        for squares in self.inner.batches(rows_of_steps):
            time.sleep(self.seconds)
            yield squares


def verdict(pictures_s: float, network_s: float, steps: int = 4) -> str:
    pixels = torch.zeros(steps * 2, 40, 40, 3, dtype=torch.uint8)
    feed = Slow(Cached(pixels, torch.ones(len(pixels), 2)), pictures_s)
    training = Training(feed, ["x"] * len(pixels), torch.zeros(len(pixels), dtype=torch.long))
    recipe, stages = samples.recipe(batch_size=2), Stages(CPU)
    rows = batches.order(training, recipe, 0)
    for _ in batches.batches(training, rows, 0, recipe, Ranks(0, 1, CPU), stages):
        time.sleep(network_s)
        stages.lap("the network")
    return stages.verdict()


@pytest.mark.parametrize(
    ("pictures_s", "network_s", "slowest"),
    [(0.1, 0.0, "the pictures"), (0.01, 0.1, "the network")],
)
def test_the_verdict_names_the_slowest_stage(
    pictures_s: float, network_s: float, slowest: str
) -> None:
    text = verdict(pictures_s, network_s)
    assert text.startswith(f"the speed is bound by {slowest} ({slowest} ")
    found = shares(text)
    assert found.keys() == {"the pictures", "augmentation", "the network"}
    assert sum(found.values()) == pytest.approx(100, abs=1)  # each is rounded
    assert found[slowest] == max(found.values()) > 50


def test_a_stage_s_seconds_are_those_it_took() -> None:
    """But for the first step, in which caches warm up."""
    stages = Stages(CPU)
    for step in range(3):
        stages.begin()
        time.sleep(1.0 if step == 0 else 0.05)
        stages.lap("a")
        stages.lap("b")
        time.sleep(0.2)  # between steps: nobody's
    assert 0.1 <= stages.seconds["a"] < 0.9
    assert stages.seconds["b"] < 0.05


def test_one_step_tells_nothing() -> None:
    stages = Stages(CPU)
    stages.begin()
    stages.lap("the pictures")
    assert stages.verdict() == "too few steps to tell what bounds the speed"
