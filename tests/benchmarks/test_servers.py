"""The servers to compare: one that does not start is named, with its log."""

from pathlib import Path

import pytest

from benchmarks import servers
from models.store import Store
from testkit import tiny_models


def test_a_server_that_ends_before_it_answers_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "command", lambda *_: ["false"])
    tiny_models.add(tmp_path / "store", "bench", "single")
    running = servers.running(servers.LABRADOR, tmp_path, Store(tmp_path / "store"), [b""])
    with pytest.raises(RuntimeError, match=r"Labrador does not answer: .*Labrador\.log"), running:
        pass
