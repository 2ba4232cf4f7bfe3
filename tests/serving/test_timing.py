"""A form is timed beside fp32, on a clock that the test sets, and wins only if it is faster."""

from collections.abc import Iterator, Sequence
from itertools import chain, repeat

import numpy as np
import pytest
from numpy.typing import NDArray

from models.golden import Runner
from serving import timing
from serving.timing import Comparison, Speed, beats, compare, speeds


def against(full: float, alone: float) -> Comparison:
    """A form that answers so many times fp32's images a second, in full batches and one by one."""
    reference = {1: 2.0, 8: 12.0}
    return Comparison(reference, {1: reference[1] / alone, 8: reference[8] / full})


@pytest.mark.parametrize(
    ("full", "alone", "wins"),
    [
        (2.9, 2.1, True),
        (1.11, 1.0, True),
        (1.09, 2.0, False),  # may be noise
        (1.0, 1.0, False),
        (0.7, 0.9, False),
        (2.9, 0.99, False),  # a single image would wait longer
    ],
)
def test_a_form_serves_if_it_is_clearly_faster_when_full_and_never_slower(
    full: float, alone: float, wins: bool
) -> None:
    assert beats(against(full, alone), None) is wins


def test_of_two_faster_forms_the_second_must_be_clearly_faster_than_the_first() -> None:
    best = against(2.0, 3.0)
    assert beats(against(2.25, 1.5), best)
    assert not beats(against(2.15, 4.0), best)
    assert not beats(against(4.0, 0.9), best)


def test_a_comparison_is_told_with_the_full_batch_first() -> None:
    assert against(2.926, 2.114).told("fp32") == (
        "2.93 times as many images a second as fp32 at batch 8, 2.11 at batch 1"
    )
    alone = Comparison({1: 3.0}, {1: 2.0})
    assert alone.told("fp32") == "1.50 times as many images a second as fp32 at batch 1"


def test_speeds_are_images_a_second() -> None:
    assert speeds("CPU", "int8", {1: 0.5, 8: 2.0}) == [
        Speed("CPU", "int8", 1, 2.0),
        Speed("CPU", "int8", 8, 4.0),
    ]


class Clocked:
    """Forms that take the given seconds, one run after the other; `log`: (name, images) of each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._now_s = 0.0
        self.log: list[tuple[str, int]] = []
        monkeypatch.setattr(timing, "perf_counter", lambda: self._now_s)

    def form(self, name: str, seconds: Iterator[float]) -> Runner:
        def run(images: NDArray[np.uint8]) -> NDArray[np.float32]:
            self.log.append((name, len(images)))
            self._now_s += next(seconds)
            return np.zeros((len(images), 1), np.float32)

        return run

    def compared(
        self, reference: Sequence[float], form: Sequence[float], batch: int = 8
    ) -> Comparison:
        """The last of the given seconds is that of all further runs."""
        return compare(
            self.form("fp32", chain(reference, repeat(reference[-1]))),
            self.form("int8", chain(form, repeat(form[-1]))),
            np.zeros((batch, 2, 2, 3), np.uint8),
        )


def test_both_run_in_turn_with_one_image_and_with_a_full_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clocked = Clocked(monkeypatch)
    found = clocked.compared([0.25], [0.125])
    assert found == Comparison({1: 0.25, 8: 0.25}, {1: 0.125, 8: 0.125})
    rounds = ["fp32", "int8", "int8", "fp32", "fp32", "int8"]
    assert clocked.log == [(name, batch) for batch in (1, 8) for name in rounds]


def test_where_the_largest_batch_is_one_image_it_is_timed_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clocked = Clocked(monkeypatch)
    assert clocked.compared([0.25], [0.125], batch=1) == Comparison({1: 0.25}, {1: 0.125})
    assert len(clocked.log) == 6


def test_a_run_that_was_disturbed_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Clocked(monkeypatch).compared([0.25, 2.0, 0.25], [0.125])
    assert found.times(1) == 2


@pytest.mark.parametrize(
    ("seconds", "rounds"),
    [
        (0.0001, 50),  # a tiny network: no longer than it needs
        (0.03, 7),  # until 0.4 s have passed
        (0.5, 3),  # enough for a median
        (0.75, 2),  # a slow one: until 3 s have passed
        (60.0, 1),
    ],
)
def test_the_time_that_it_takes_is_bounded(
    seconds: float, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocked = Clocked(monkeypatch)
    clocked.compared([seconds], [seconds])
    assert clocked.log.count(("fp32", 8)) == clocked.log.count(("int8", 8)) == rounds
