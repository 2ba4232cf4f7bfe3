"""The simulated workers of one GPU, where what they must answer is known."""

import pytest

from benchmarks import sharing
from benchmarks.sharing import FULL_S, LOOP_S, answers_per_s, batch_s


def test_a_batch_takes_its_fixed_time_and_one_for_each_image_of_its_bucket() -> None:
    assert batch_s(32, 0.25) == pytest.approx(FULL_S)
    assert batch_s(5, 0.25) == batch_s(8, 0.25) == pytest.approx(FULL_S * (0.25 + 0.75 / 4))


def test_the_event_loops_are_the_limit_of_few_workers_and_the_gpu_of_many() -> None:
    assert answers_per_s(1, 64, 0.25, "own batches") == pytest.approx(1 / LOOP_S, rel=0.01)
    assert answers_per_s(8, 512, 0.25, "one engine") == pytest.approx(6000, rel=0.01)


def test_with_few_clients_the_batches_of_many_workers_are_small(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Four with four images each, in turn: of a fixed time, so a quarter of one engine's."""
    monkeypatch.setattr(sharing, "LOOP_S", 0.0)
    engine = answers_per_s(4, 16, 1.0, "one engine")
    assert engine == pytest.approx(16 / FULL_S, rel=0.01)
    in_turn = answers_per_s(4, 16, 1.0, "own batches, taken in turn")
    assert in_turn == pytest.approx(engine / 4, rel=0.01)
    assert answers_per_s(4, 16, 1.0, "own batches") < 0.7 * in_turn
