"""Every process of the service is replaced behind a real nginx."""

import shutil
from pathlib import Path

import pytest

from benchmarks import rolling_update

pytestmark = pytest.mark.skipif(
    shutil.which("nginx") is None or shutil.which("openssl") is None,
    reason="nginx or openssl is missing: Debian's packages nginx and openssl",
)


@pytest.mark.long
def test_no_request_fails_while_every_process_is_replaced(tmp_path: Path) -> None:
    tally = rolling_update.measure(tmp_path, rate=100)
    assert tally.failures == []
    assert set(tally.versions) == {1, 2} and len(tally.versions) > 2000
    assert tally.passed_on, "no process was ever unavailable"
