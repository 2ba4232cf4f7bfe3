from collections.abc import Callable
from pathlib import Path

from benchmarks import swap
from testkit.in_process import Inside


def test_no_request_fails_while_versions_are_swapped(
    inside: Callable[..., Inside], tmp_path: Path
) -> None:
    store = swap.fill(tmp_path)
    server = inside(model_store=tmp_path, reload_s=0.02)
    tally = swap.measure(server.url, store, swaps=12)
    assert tally.swaps == 12
    assert tally.failures == []
    assert tally.mixed == []
    assert set(tally.versions) == {1, 2}
