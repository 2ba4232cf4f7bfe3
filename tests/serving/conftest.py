from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.outputs import Outputs
from serving.observability.metrics import Metrics
from serving.session import Session
from testkit import mapped_models, tiny_models
from testkit.in_process import Hold, Inside, run_inside
from testkit.servers import Server, serve


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one model of each task: colours and tags."""
    folder = tmp_path_factory.mktemp("store")
    tiny_models.add(folder, "colours", "single")
    tiny_models.add(folder, "tags", "multi")
    return folder


@pytest.fixture(scope="session")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose models have maps, colours and tags, and one that has none: plain."""
    folder = tmp_path_factory.mktemp("mapped")
    mapped_models.add(folder, "colours", "single")
    mapped_models.add(folder, "tags", "multi")
    tiny_models.add(folder, "plain", "single")
    return folder


@pytest.fixture(scope="session")
def metrics(metrics_folder: Path) -> Metrics:
    return Metrics(metrics_folder)


@pytest.fixture
def inside(metrics_folder: Path, store: Path) -> Iterator[Callable[..., Inside]]:
    """Start the application in this process, with the given settings and both models."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(
            run_inside(metrics_folder, **{"model_store": store, "device": "cpu", **settings})
        )


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Iterator[Server]:
    """A running server with both models."""
    with serve(tmp_path_factory.mktemp("server"), model_store=store) as running:
        yield running


@pytest.fixture
def inferring(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hold]:
    """Blocks every run of a model until it is released; released at first."""
    hold, run = Hold(), Session.outputs
    hold.go.set()

    def held_run(session: Session, images: NDArray[np.uint8], maps: bool = False) -> Outputs:
        hold()
        return run(session, images, maps)

    monkeypatch.setattr(Session, "outputs", held_run)
    yield hold
    hold.go.set()
