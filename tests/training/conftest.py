import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from models import bundle
from models.bundle import Bundle
from models.manifest import Task
from models.store import Store
from testkit import image_sets, narrow_resnet
from training import run_folder
from training.commands.train import train
from training.export import forms
from training.export.export import export
from training.run_folder import Run

Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """The workers share the cores. scripts/processors sets another number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def narrow_networks() -> Iterator[None]:
    with narrow_resnet.in_place():
        yield


@pytest.fixture(scope="session", autouse=True)
def fp32_by_default() -> Iterator[None]:
    """The other forms take seconds to make: their tests ask for them by name, or undo this."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forms, "REDUCED", ())
        yield


@pytest.fixture(scope="module")
def real_networks() -> Iterator[None]:
    """torchvision's own, at their full width, in the whole file: for `pytestmark`."""
    with narrow_resnet.in_place(narrow_resnet.REAL):
        yield


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Returns a folder by name; the first test process that asks for it fills it.

    The folders are in TEST_FIXTURES, if the environment has it (`scripts/mutate`).
    """
    root = Path(os.environ.get("TEST_FIXTURES", tmp_path_factory.getbasetemp()))
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # of all workers

    def once(name: str, fill: Callable[[Path], object]) -> Path:
        folder, filled = root / name, root / f"{name}.filled"
        with FileLock(root / f"{name}.lock"):
            if not filled.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
                filled.touch()
        return folder

    return once


@pytest.fixture(scope="session")
def single_data(once: Once) -> Path:
    """Three labels, sixteen images each, in class folders. Not to be changed."""
    return once("single-data", lambda f: image_sets.class_folders(f / "colours", 16)) / "colours"


@pytest.fixture(scope="session")
def multi_data(once: Once) -> Path:
    """A CSV of fifty images with none to three labels. Not to be changed."""
    return once("multi-data", lambda folder: image_sets.table(folder, 50)) / "labels.csv"


@pytest.fixture(scope="session")
def single_run(single_data: Path, once: Once) -> Run:
    """Not trained to the end: scores that are all 0 or 1 would hide a change of the network."""
    recipe = image_sets.recipe(single_data, valid=0.5, lr="6e-3")
    with narrow_resnet.in_place():
        return run_folder.read(once("single-run", lambda folder: train(recipe, folder)))


@pytest.fixture(scope="session")
def multi_run(multi_data: Path, once: Once) -> Run:
    recipe = image_sets.recipe(multi_data, valid=0.5, lr="3e-2")
    with narrow_resnet.in_place():
        return run_folder.read(once("multi-run", lambda folder: train(recipe, folder)))


@pytest.fixture(scope="session")
def store(single_run: Run, multi_run: Run, once: Once) -> Store:
    """Holds version 1 of colours, the single-label run, and of stripes, the multi-label run."""

    def fill(folder: Path) -> None:
        export(single_run, "colours", Store(folder))
        export(multi_run, "stripes", Store(folder))

    with narrow_resnet.in_place():
        return Store(once("store", fill))


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
