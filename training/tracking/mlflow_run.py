"""`--mlflow URI`: a run's parameters, figures, files and bundles on an MLflow server.

All is sent from the run's folder. So what a server that was away has missed is sent later, by the
next epoch, at the end, or by `export`.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from models import bundle
from training import run_folder
from training.run_folder import Epoch
from training.tracking import choice

if TYPE_CHECKING:
    from mlflow import MlflowClient

_EXPERIMENT = "labrador"
_SENT = (  # of a complete run
    run_folder.REPORT_FILE,
    run_folder.RECIPE_FILE,
    run_folder.EPOCHS_FILE,
    run_folder.CURVES_FILE,
    run_folder.PROVENANCE_FILE,
    "metrics.json",
    "predictions.csv",
)
_DEFAULTS = {  # of MLflow's own settings
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # its 7 would hold a training up for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class MlflowRun:
    """The MLflow run of the run in the folder `path`. Whatever MLflow raises, its methods do."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._client: MlflowClient | None = None
        self._sent: set[int] = set()

    def epochs(self, epochs: Sequence[Epoch]) -> None:
        """Send those that the server does not have."""
        from mlflow.entities import Metric

        client, run_id = self._opened()
        now = int(1000 * time.time())
        for epoch in epochs:
            if epoch.epoch in self._sent:
                continue
            values = {k: v for k, v in epoch.line().items() if k not in ("phase", "epoch")}
            logged = [Metric(name, value, now, epoch.epoch) for name, value in values.items()]
            client.log_batch(run_id, metrics=logged)
            self._sent.add(epoch.epoch)

    def end(self) -> None:
        """Send all of a complete run, and end the MLflow run."""
        from mlflow.entities import Metric

        finished = run_folder.read(self._path)
        self.epochs(run_folder.read_epochs(self._path))
        client, run_id = self._opened()
        now = int(1000 * time.time())
        figures = [
            Metric(f"final.{name}{suffix}", value, now, 0)
            for name, metric in finished.outcome.metrics.items()
            for suffix, value in (("", metric.value), (".low", metric.low), (".high", metric.high))
        ]
        client.log_batch(run_id, metrics=figures)
        for name in _SENT:
            client.log_artifact(run_id, str(self._path / name))
        client.set_terminated(run_id, "FINISHED")

    def stop(self, status: str) -> None:
        """End the MLflow run of a training that did not: KILLED or FAILED."""
        client, run_id = self._opened()
        client.set_terminated(run_id, status)

    def register(self, folder: Path) -> str:
        """Send the bundle in `folder`, as a version of the registered model of its name.

        Returns that version's number. Sends the run first if it is not there completely.
        """
        client, run_id = self._opened()
        if client.get_run(run_id).info.status != "FINISHED":
            self.end()
        manifest = bundle.read_manifest(folder)
        place = f"bundles/{manifest.name}/{manifest.version}"
        client.log_artifacts(run_id, str(folder), place)
        if not client.search_registered_models(f"name = '{manifest.name}'"):
            client.create_registered_model(manifest.name)
        made = client.create_model_version(
            manifest.name,
            f"runs:/{run_id}/{place}",
            run_id,
            tags={"labrador.version": str(manifest.version), "labrador.task": manifest.task},
        )
        return str(made.version)

    def _opened(self) -> "tuple[MlflowClient, str]":
        """The client, and the id of the MLflow run, which is made or opened again."""
        chosen = choice.read(self._path)
        if self._client and chosen.mlflow_run:
            return self._client, chosen.mlflow_run
        for name, value in _DEFAULTS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient  # seconds

        client = MlflowClient(tracking_uri=chosen.mlflow, registry_uri=chosen.mlflow)
        run_id = chosen.mlflow_run
        if run_id is None:
            run_id = self._made(client)
            choice.write(self._path, chosen.model_copy(update={"mlflow_run": run_id}))
        elif not (self._path / run_folder.RUN_FILE).exists():
            client.update_run(run_id, status="RUNNING")
        self._sent = {metric.step for metric in client.get_metric_history(run_id, "train_loss")}
        self._client = client
        return client, run_id

    def _made(self, client: "MlflowClient") -> str:
        from mlflow.entities import Param

        origin = run_folder.read_provenance(self._path)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _EXPERIMENT)
        found = client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else client.create_experiment(name)
        tags = {
            "labrador.run": str(self._path.absolute()),
            "labrador.data_fingerprint": origin.data_fingerprint,
            "mlflow.source.git.commit": origin.git_commit or "",
        }
        run_id: str = client.create_run(experiment, run_name=self._path.name, tags=tags).info.run_id
        params = [Param(option, str(value)) for option, value in origin.recipe.items()]
        client.log_batch(run_id, params=params)
        return run_id
