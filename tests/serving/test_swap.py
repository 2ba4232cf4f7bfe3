import os
from collections.abc import Callable
from pathlib import Path

from benchmarks import swap
from testkit import tiny_models
from testkit.in_process import Inside
from testkit.servers import get, post
from testkit.waiting import until


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


def test_no_request_fails_while_the_store_hangs(
    inside: Callable[..., Inside], tmp_path: Path
) -> None:
    """A FIFO in the place of RELEASED, as a volume whose server is gone."""
    store = swap.fill(tmp_path)
    server = inside(model_store=tmp_path, reload_s=0.02, store_timeout_s=0.1)
    (name,) = store.names()
    released = tmp_path / name / "RELEASED"
    released.unlink()
    os.mkfifo(released)
    failures = server.metric("labrador_store_failures_total")
    codes = set()

    def three_more_failed() -> bool:
        codes.add(get(f"{server.url}/livez").status_code)
        codes.add(get(f"{server.url}/readyz").status_code)
        codes.add(post(f"{server.url}/classify", content=tiny_models.picture()).status_code)
        return server.metric("labrador_store_failures_total") >= failures + 3

    until(three_more_failed)
    released.unlink()
    assert codes == {200}
    store.release(name, 2)
    until(lambda: 'version="2"' in get(f"{server.url}/metrics").text)
