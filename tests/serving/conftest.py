from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.metrics import Metrics
from tests import tiny
from tests.serving.running import Server, serve


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one model of each task: colours and tags."""
    folder = tmp_path_factory.mktemp("store")
    tiny.add(folder, "colours", "single")
    tiny.add(folder, "tags", "multi")
    return folder


@pytest.fixture(scope="session")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> Metrics:
    """One for the whole process, as prometheus_client keeps its files open; compare differences."""
    return Metrics(tmp_path_factory.mktemp("metrics"))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Iterator[Server]:
    """A running server with both models and a short time for bodies."""
    folder = tmp_path_factory.mktemp("server")
    with serve(folder, model_store=store, read_timeout_s=3, max_queue=64) as running:
        yield running
