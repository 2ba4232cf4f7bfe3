from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from models import bundle
from models.bundle import Bundle
from models.manifest import Task
from models.store import Store
from tests.training import samples
from training import run
from training.export import export
from training.run import Run
from training.train import train


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """On busy cores two threads take far longer than one: oneDNN's wait for each other spins."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def single_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three labels, sixteen images each, in class folders. Not to be changed."""
    return samples.class_folders(tmp_path_factory.mktemp("single") / "colours", 16)


@pytest.fixture(scope="session")
def multi_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of fifty images with none to three labels. Not to be changed."""
    return samples.table(tmp_path_factory.mktemp("multi"), 50)


@pytest.fixture(scope="session")
def single_run(single_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Not trained to the end: where every score is 0 or 1, a change of the network hides."""
    recipe = samples.recipe(single_data, valid=0.5, lr="1e-3")
    return run.read(train(recipe, tmp_path_factory.mktemp("single-run")))


@pytest.fixture(scope="session")
def multi_run(multi_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    recipe = samples.recipe(multi_data, valid=0.5)
    return run.read(train(recipe, tmp_path_factory.mktemp("multi-run")))


@pytest.fixture(scope="session")
def store(single_run: Run, multi_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Holds version 1 of colours, the single-label run, and of stripes, the other."""
    store = Store(tmp_path_factory.mktemp("store"))
    export(single_run, "colours", store)
    export(multi_run, "stripes", store)
    return store


@pytest.fixture(scope="session")
def single_bundle(store: Store) -> Bundle:
    return bundle.read(store.path("colours"))


@pytest.fixture(scope="session")
def multi_bundle(store: Store) -> Bundle:
    return bundle.read(store.path("stripes"))


@pytest.fixture(params=["single", "multi"])
def task(request: pytest.FixtureRequest) -> Task:
    chosen: Task = request.param
    return chosen


@pytest.fixture(name="run")
def finished_run(task: Task, request: pytest.FixtureRequest) -> Run:
    found: Run = request.getfixturevalue(f"{task}_run")
    return found


@pytest.fixture(name="bundle")
def either_bundle(task: Task, request: pytest.FixtureRequest) -> Bundle:
    found: Bundle = request.getfixturevalue(f"{task}_bundle")
    return found
