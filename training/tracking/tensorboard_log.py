"""`--tensorboard`: event files in the run's folder `tensorboard`, for `tensorboard --logdir`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from models.manifest import Metric
from training.recipe import Recipe
from training.run_folder import Epoch
from training.tracking.pictures import Picture

FOLDER = "tensorboard"


class TensorBoardLog:
    """Scalars, learning rate and pictures by step, counted from 1 over all epochs.

    written: number of steps that an earlier process of this run has logged; what it logged after
    them, and this one will log again, is dropped.
    """

    def __init__(self, path: Path, written: int) -> None:
        self._writer = SummaryWriter(
            str(path / FOLDER), purge_step=written + 1 if written else None
        )
        self._written = written

    def begin(self, recipe: Recipe) -> None:
        lines = (f"| {name} | {value} |" for name, value in recipe.model_dump().items())
        self._text("recipe", ["| option | value |", "|---|---|", *lines], 0)

    def epoch(
        self,
        epoch: Epoch,
        steps: Sequence[tuple[float, float]],
        pictures: Sequence[Picture],
    ) -> None:
        """steps: learning rate of the head and loss of every finished step of the run."""
        for number, (rate, loss) in enumerate(steps[self._written :], self._written + 1):
            self._scalar("learning_rate", rate, number)
            self._scalar("loss/step", loss, number)
        self._written = end = len(steps)
        self._scalar("loss/train", epoch.train_loss, end)
        for name, value in (
            ("loss/valid", epoch.valid_loss),
            ("valid/error", epoch.error),
            ("valid/map", epoch.map),
            ("images_per_s", epoch.images_per_s),
        ):
            if value is not None:
                self._scalar(name, value, end)
        for number, picture in enumerate(pictures, 1):
            self._writer.add_image(
                f"worst mistakes/{number}", picture.image, end, dataformats="HWC"
            )
        if pictures:
            lines = [f"{number}. {picture.words}" for number, picture in enumerate(pictures, 1)]
            self._text("worst mistakes", lines, end)
        self._writer.flush()

    def end(self, measured: Mapping[str, Metric]) -> None:
        rows = (
            f"| {n} | {m.value:.4f} | {m.low:.4f} to {m.high:.4f} |" for n, m in measured.items()
        )
        head = ["| metric | value | 95 % interval |", "|---|---|---|"]
        self._text("metrics", [*head, *rows], self._written)
        for name, metric in measured.items():
            self._scalar(f"final/{name}", metric.value, self._written)

    def close(self) -> None:
        self._writer.close()

    def _scalar(self, name: str, value: float, step: int) -> None:
        self._writer.add_scalar(name, value, step)

    def _text(self, name: str, lines: Sequence[str], step: int) -> None:
        self._writer.add_text(name, "\n".join(lines), step)
