"""The trackers of one run. One that fails is warned of once; the training goes on."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.wording import on_one_line
from training import output, run_folder
from training.recipe import Recipe
from training.run_folder import Epoch
from training.tracking import choice, pictures
from training.tracking.choice import Choice
from training.tracking.mlflow_run import MlflowRun
from training.tracking.pictures import Judged

if TYPE_CHECKING:
    from training.tracking.tensorboard_log import TensorBoardLog


@dataclass
class Trackers:
    """Those that the run in the folder `path` has."""

    path: Path
    tensorboard: "TensorBoardLog | None" = None
    mlflow: MlflowRun | None = None
    _warned: set[str] = field(default_factory=set)

    def after_epoch(
        self,
        judged: Judged,
        epochs: Sequence[Epoch],
        steps: Sequence[tuple[float, float]],
        logits: NDArray[np.float32],
    ) -> None:
        """epochs: all so far. steps: learning rate and loss of each. logits: `[N, C]`, of the
        validation images."""
        if board := self.tensorboard:
            self._try(
                "TensorBoard",
                lambda: board.epoch(epochs[-1], steps, pictures.worst(judged, logits)),
            )
        if server := self.mlflow:
            self._try("MLflow", lambda: server.epochs(epochs))

    def complete(self) -> None:
        """Of a run whose files are all written."""
        if board := self.tensorboard:
            measured = run_folder.read(self.path).outcome.metrics
            self._try("TensorBoard", lambda: board.end(measured))
        if server := self.mlflow:
            self._try("MLflow", server.end)

    def register(self, folder: Path) -> None:
        """Of a bundle of the run."""
        if server := self.mlflow:
            self._try("MLflow", lambda: output.note(_registered(server, folder)))

    def _stop(self, status: str) -> None:
        if server := self.mlflow:
            self._try("MLflow", lambda: server.stop(status))

    def _close(self) -> None:
        if board := self.tensorboard:
            self._try("TensorBoard", board.close)

    def _try(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # of any kind: a server, a network, a disk, a library
            if name not in self._warned:
                reason = on_one_line(error)[:200] or type(error).__name__
                output.warn(f"{name} got nothing: {reason}; this goes on without it")
            self._warned.add(name)


@contextmanager
def opened(
    path: Path, recipe: Recipe, epochs: int, steps: int, first: bool = True
) -> Iterator[Trackers]:
    """The trackers of a training. epochs: finished ones; steps: per epoch; first: of the processes
    of a training, only the first has them."""
    chosen = choice.read(path) if first else Choice()
    trackers = Trackers(path, mlflow=MlflowRun(path) if chosen.mlflow else None)
    if chosen.tensorboard:
        trackers._try("TensorBoard", lambda: _start(trackers, recipe, epochs * steps))
    if server := trackers.mlflow:
        trackers._try("MLflow", lambda: server.epochs([]))
    try:
        yield trackers
    except BaseException as error:
        trackers._stop("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    finally:
        trackers._close()


def register(path: Path, folder: Path) -> None:
    """Tell the trackers of the run in `path` of its bundle in `folder`."""
    if choice.read(path).mlflow:
        Trackers(path, mlflow=MlflowRun(path)).register(folder)


def _start(trackers: Trackers, recipe: Recipe, written: int) -> None:
    from training.tracking.tensorboard_log import TensorBoardLog  # needs an extra

    trackers.tensorboard = TensorBoardLog(trackers.path, written)
    if not written:
        trackers.tensorboard.begin(recipe)


def _registered(server: MlflowRun, folder: Path) -> str:
    return f"registered in MLflow as version {server.register(folder)} of {folder.parent.name}"
