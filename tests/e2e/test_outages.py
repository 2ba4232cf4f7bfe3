"""`benchmarks.outages`, shortened: workers and processes are killed behind nginx, nothing fails."""

import shutil
from pathlib import Path

import pytest

from benchmarks import outages


@pytest.mark.long
@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_no_request_fails_while_servers_are_killed(tmp_path: Path) -> None:
    for tally in outages.measure(tmp_path, kills=2, rate=50):
        assert tally.failures == []
        assert len(tally.versions) > 100
