"""`benchmarks.soak` for some seconds: every kind of request gets the answer that it should."""

import random
from pathlib import Path

import pytest

from benchmarks import mutants, soak
from testkit.servers import Server

KINDS = {"good", "text", "too large", "lying header", "mutant", "several", "slow", "leaving"}


def missing(found: soak.Soak) -> set[str]:
    """What a soak has not seen yet."""
    answers = list(found.answers)  # clients are adding to it
    codes = {code for kind, code in answers if kind == "mutant"}
    seen = {kind for kind, _ in answers} | ({"a swap"} if found.swaps else set())
    seen |= {f"a mutant's {code}" for code in codes}
    return {*KINDS, "a swap", "a mutant's 200", "a mutant's 422"} - seen


def test_mixed_load_gets_the_expected_answers_while_versions_are_swapped(tmp_path: Path) -> None:
    found = soak.measure(tmp_path, 1, soak.drawn(), 0.01, lambda soak: not missing(soak))
    assert found.unexpected == []
    assert missing(found) == set()


def test_growth_is_told_from_warming_up() -> None:
    flat = soak.Soak(samples=[(float(n), 100 if n < 10 else 150, 20, 9, 300) for n in range(100)])
    assert flat.growing() == []
    leak = soak.Soak(samples=[(float(n), 100 + n, 20, 9, 300) for n in range(100)])
    assert leak.growing() == ["MB: 114.5 -> 194.5"]


def test_growth_at_the_end_is_seen_however_many_samples_there_are() -> None:
    late = soak.Soak(samples=[(float(n), 100 if n < 17 else 300, 20, 9, 300) for n in range(19)])
    assert late.growing() == ["MB: 100 -> 300"]
    assert len(soak.Soak(samples=late.samples[:4]).tenths()) == 4


def test_mutants_differ_and_are_the_same_for_a_seed() -> None:
    file = soak.drawn()[0]
    made = [soak.mutant(file, random.Random(seed)) for seed in range(50)]
    assert len(set(made)) > 40
    assert soak.mutant(file, random.Random(3)) == made[3]


def test_every_mutant_is_answered_and_not_by_a_fault(server: Server) -> None:
    answers, memory_mb = mutants.measure(server, soak.drawn(), 200)
    assert answers.total() == 200
    assert set(answers) <= set(map(str, soak.MUTANT_STATUSES))
    assert answers["422"] > 20
    assert len(memory_mb) > 10


def test_a_client_that_fails_is_not_passed_over(server: Server) -> None:
    with pytest.raises(IndexError):  # there is no file to make a mutant of
        mutants.measure(server, [], 2)
