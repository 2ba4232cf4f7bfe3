"""`benchmarks.soak` for some seconds: every kind of request gets the answer that it should."""

import random
from pathlib import Path

from benchmarks import mutants, soak


def test_mixed_load_gets_the_expected_answers_while_versions_are_swapped(tmp_path: Path) -> None:
    found = soak.measure(tmp_path, 4, soak.drawn(), pause_s=0.01)
    assert found.unexpected == []
    assert found.swaps > 0
    assert {kind for kind, _ in found.answers} == {
        *("good", "text", "too large", "lying header", "mutant", "several", "slow", "leaving")
    }
    assert {code for kind, code in found.answers if kind == "mutant"} >= {200, 422}


def test_growth_is_told_from_warming_up() -> None:
    flat = soak.Soak(samples=[(float(n), 100 if n < 10 else 150, 20, 9, 300) for n in range(100)])
    assert flat.growing() == []
    leak = soak.Soak(samples=[(float(n), 100 + n, 20, 9, 300) for n in range(100)])
    assert leak.growing() == ["MB: 114.5 -> 194.5"]


def test_mutants_differ_and_are_the_same_for_a_seed() -> None:
    file = soak.drawn()[0]
    made = [soak.mutant(file, random.Random(seed)) for seed in range(50)]
    assert len(set(made)) > 40
    assert soak.mutant(file, random.Random(3)) == made[3]


def test_every_mutant_is_answered_and_not_by_a_fault(tmp_path: Path) -> None:
    answers, memory_mb = mutants.measure(tmp_path, soak.drawn(), 200)
    assert answers.total() == 200
    assert set(answers) <= set(map(str, soak.MUTANT_STATUSES))
    assert answers["422"] > 20
    assert len(memory_mb) > 10
