from pathlib import Path

from benchmarks import swap


def test_no_request_fails_while_versions_are_swapped(tmp_path: Path) -> None:
    tally = swap.measure(tmp_path, swaps=12)
    assert tally.swaps == 12
    assert tally.failures == []
    assert tally.mixed == []
    assert set(tally.versions) == {1, 2} and len(tally.versions) > 50
