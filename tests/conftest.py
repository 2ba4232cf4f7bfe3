"""What tests need from the machine: if it is missing they are skipped, or fail with --all."""

import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

# OpenMP's threads spin while waiting for each other: next to another test's process on the same
# cores, they take three times as long. Read when torch is loaded, in the tests' subprocesses too.
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import torch  # noqa: E402

from models.storage import objects  # noqa: E402
from testkit import json_schema, object_storage  # noqa: E402
from testkit.object_storage import Proxy  # noqa: E402

DATA = Path(__file__).parents[2] / "shared" / "data"

sys.modules[json_schema.SLOW] = None  # type: ignore[assignment] # importing it raises ImportError


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all",
        action="store_true",
        help="fail tests that would be skipped, except for lack of a GPU or of the real images",
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("data") and not DATA.is_dir():
        pytest.skip("the real images are missing: ../shared/data")
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    may_lack = any(item.get_closest_marker(name) for name in ("gpu", "data"))
    if report.skipped and item.config.getoption("--all") and not may_lack:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def real_images() -> Path:
    """The folder of the real images; for tests marked `data`."""
    return DATA


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    with object_storage.s3_server() as port:
        yield port


@pytest.fixture
def s3(s3_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy to a real S3 server, which this process finds in its environment; an empty cache.

    What fails is sent again once, at once.
    """
    with object_storage.proxy(s3_port) as found:
        for name, value in found.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("LABRADOR_CACHE", str(tmp_path / "cache"))
        monkeypatch.setitem(objects.RETRIES, "max_retries", 1)
        yield found


@pytest.fixture(scope="session")
def metrics_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One per process, because prometheus_client keeps its files open: compare differences."""
    return tmp_path_factory.mktemp("metrics")
