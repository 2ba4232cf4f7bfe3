"""A real MLflow server, of its own environment: it was away, it comes, it registers a bundle."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from benchmarks.environment import installed
from models import bundle
from models.store import Store
from testkit import image_sets
from testkit.servers import free_port
from training.__main__ import main
from training.tracking import choice

pytestmark = pytest.mark.long
QUICK = [
    *("--weights", "none", "--device", "cpu", "--image-size", "32", "--batch-size", "16"),
    *("--freeze-epochs", "1", "--epochs", "1", "--lr", "1e-2", "--dtype", "float32"),
]
READY_WITHIN_S = 120


@pytest.fixture(scope="module")
def binaries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed(tmp_path_factory.mktemp("environments"), "mlflow")


@contextmanager
def server(binaries: Path, folder: Path, port: int) -> Iterator[str]:
    """An MLflow server with its database and files in `folder`; its URL."""
    url = f"http://127.0.0.1:{port}"
    database, files = folder / "mlflow.db", folder / "artifacts"
    command: list[str | Path] = [binaries / "mlflow", "server", "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{database}", "--artifacts-destination", files]
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + READY_WITHIN_S
            while True:
                try:
                    httpx.get(f"{url}/health").raise_for_status()
                    break
                except httpx.HTTPError:
                    assert process.poll() is None and time.monotonic() < deadline
                    time.sleep(0.2)
            yield url
        finally:
            process.terminate()
            process.wait()


def test_a_server_that_was_away_gets_the_run_and_its_bundle_and_another_run_as_it_trains(
    binaries: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = image_sets.class_folders(tmp_path / "colours", 16)
    port, store = free_port(), Store(tmp_path / "store")
    train = ["train", str(data), *QUICK, "--mlflow", f"http://127.0.0.1:{port}", "--out"]
    export = ["--name", "colours", "--store", str(store.root), "--precision", "fp32"]

    first = tmp_path / "first"
    assert main([*train, str(first)]) == 0
    assert capfd.readouterr().err.count("warning: MLflow got nothing") == 1

    with server(binaries, tmp_path, port) as url:
        from mlflow import (
            MlflowClient,  # late: it takes seconds, and the suite only reads this file
        )

        client = MlflowClient(url)
        assert main(["export", str(first), *export]) == 0
        assert "registered in MLflow as version 1 of colours" in capfd.readouterr().out
        made = client.get_model_version("colours", "1")
        assert made.run_id and made.source
        run = client.get_run(made.run_id)
        assert run.info.status == "FINISHED" and run.data.params["lr"] == "1e-2"
        assert [m.step for m in client.get_metric_history(made.run_id, "error")] == [1, 2]
        place = made.source.removeprefix(f"runs:/{made.run_id}/")
        copy = Path(client.download_artifacts(made.run_id, place, str(tmp_path)))
        assert bundle.read(copy).files == bundle.read(store.path("colours:1")).files

        second = tmp_path / "second"
        assert main([*train, str(second)]) == 0
        assert main(["release", str(second), *export, "--force"]) == 0
        found = capfd.readouterr()
        assert "registered in MLflow as version 2 of colours" in found.out
        assert "warning" not in found.err
        run_id = choice.read(second).mlflow_run
        assert run_id is not None and client.get_run(run_id).info.status == "FINISHED"
        assert "report.html" in {file.path for file in client.list_artifacts(run_id)}
