"""A run folder: what was trained, on what, and what came out.

recipe.json          the recipe as resolved, written first
split.jsonl          every image's hash, labels and side: training or validation
quarantine.csv       the images left out, if there was a list
corrections.csv      the labels changed, likewise
relabel.csv          the labels renamed, likewise
provenance.json      code, libraries, images and initial weights
tracking.json        which trackers it has, if any
tensorboard/         with --tensorboard: its event files
checkpoints/         during training: what `--resume` starts from
metrics.jsonl        one line per epoch
curves.csv           learning rate of the head and loss of each step
diverged.txt         if the loss was not finite: the images of that step
network.safetensors  the weights, with torchvision's keys
novelty.safetensors  how far an image is from the training images; missing if there were too few
conformal.json       the validation images' values, which p-values and sets of labels are based on
metrics.json         metrics on the validation images, with intervals
predictions.csv      path, target and all scores of each validation image
report.html          all of this to read, with the worst mistakes
run.json             written last: if it exists, the run is complete
"""

import datetime
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from filelock import FileLock, Timeout
from pydantic import Field, ValidationError, model_validator

from models import conformal
from models.bundle import write_atomically
from models.conformal import CONFORMAL_FILE, HeldOut
from models.errors import RunError
from models.manifest import (
    Baseline,
    Frozen,
    Metric,
    Preprocess,
    Probability,
    Provenance,
    Task,
    first_problem,
)
from training.data import split
from training.data.split import Split
from training.recipe import Arch, Recipe

if TYPE_CHECKING:
    from training.network.novelty import Novelty
    from training.network.resnet import Network

RECIPE_FILE = "recipe.json"
SPLIT_FILE = "split.jsonl"
QUARANTINE_FILE = "quarantine.csv"
CORRECTIONS_FILE = "corrections.csv"
RELABEL_FILE = "relabel.csv"
PROVENANCE_FILE = "provenance.json"
TRACKING_FILE = "tracking.json"
EPOCHS_FILE = "metrics.jsonl"
CURVES_FILE = "curves.csv"
DIVERGED_FILE = "diverged.txt"
REPORT_FILE = "report.html"
WEIGHTS_FILE = "network.safetensors"
NOVELTY_FILE = "novelty.safetensors"
RUN_FILE = "run.json"
_LOCK_FILE = ".lock"
_LISTS = {  # by the recipe's option
    "quarantine": QUARANTINE_FILE,
    "correct": CORRECTIONS_FILE,
    "relabel": RELABEL_FILE,
}


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One epoch: a line of `metrics.jsonl`.

    phase: head or whole, what was trained. train_loss: mean over its images, under augmentation.
    valid_loss, and error or map by the task: on the validation images, None until it is measured.
    seconds: since training began, without the pause before a run was resumed.
    """

    phase: str
    epoch: int
    train_loss: float
    valid_loss: float | None = None
    error: float | None = None
    map: float | None = None
    images_per_s: float
    seconds: float

    def line(self) -> dict[str, Any]:
        """The values that are known, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


class Outcome(Frozen):
    """`run.json`: what a finished run hands to evaluation and export."""

    root: str = Field(description="folder that the images' paths are relative to")
    more_roots: tuple[str, ...] = Field(
        default=(), description="of other DATA: the ways to their folders from `root`"
    )
    task: Task
    arch: Arch
    labels: tuple[str, ...]
    temperature: float = Field(gt=0)
    thresholds: tuple[Probability, ...] | None
    preprocess: Preprocess
    metrics: dict[str, Metric]
    baseline: Baseline
    provenance: Provenance

    @model_validator(mode="after")
    def _one_threshold_per_label(self) -> Self:
        if self.task == "multi" and len(self.thresholds or ()) != len(self.labels):
            raise ValueError("a multi-label run needs one threshold per label")
        return self


@dataclass(frozen=True)
class Run:
    """A complete run, read back."""

    path: Path
    outcome: Outcome
    split: Split

    @property
    def recipe(self) -> Recipe:
        """RunError if it is not one, as that of another version of Labrador."""
        try:
            return Recipe.model_validate(self.outcome.provenance.recipe)
        except ValidationError as error:
            reason = first_problem(error)
            raise RunError(f"{self.path / RUN_FILE} has an invalid recipe: {reason}") from error

    def report(self) -> bytes:
        """`report.html`. RunError if it is missing."""
        try:
            return (self.path / REPORT_FILE).read_bytes()
        except OSError as error:
            raise RunError(f"{self.path / REPORT_FILE} cannot be read: {error.strerror}") from error

    def network(self) -> "Network":
        """The trained network, in evaluation mode, on the CPU. RunError if it is corrupt."""
        from training.network.resnet import read  # late: importing torch takes seconds

        return read(self.path / WEIGHTS_FILE, self.outcome.arch, len(self.outcome.labels))

    def novelty(self) -> "Novelty | None":
        """None if the run has none, as one from before it was measured. RunError if corrupt."""
        from training.network.novelty import read

        file = self.path / NOVELTY_FILE
        return read(file) if file.exists() else None

    def held_out(self) -> HeldOut | None:
        """The validation images' values by the trained network; None if the run has none.

        Raises BundleError if they are corrupt.
        """
        file = self.path / CONFORMAL_FILE
        return conformal.parse(file.read_bytes(), str(file))["fp32"] if file.exists() else None


def create(out: Path | None) -> Path:
    """A new, empty run folder: `out`, or `runs/<time>`. RunError if it is in use."""
    path = out or Path("runs") / f"{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}"
    check_free(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{path} cannot be created: {error.strerror}") from error
    return path


def check_free(path: Path | None) -> None:
    """RunError if the folder `path` is in use; None is the default folder, which never is."""
    if path is None or not path.exists():
        return
    if not path.is_dir() or {file.name for file in path.iterdir()} - {_LOCK_FILE}:
        raise RunError(
            f"{path} exists and is not empty; give another folder with --out, or resume a stopped"
            " run: --resume RUN"
        )


@contextmanager
def locked(path: Path, first: bool) -> Iterator[None]:
    """Keep other processes from training into the folder; RunError if one already does.

    Of a run's own processes only the first takes the lock.
    """
    if not first:
        yield
        return
    lock = FileLock(path / _LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunError(f"another process is training into {path}") from error
    except OSError as error:
        raise RunError(f"{path} cannot be written to: {error.strerror}") from error
    try:
        yield
    finally:
        lock.release()


def write_start(path: Path, recipe: Recipe, sides: Split, provenance: Provenance) -> None:
    """Write what a run starts with. RunError if another run has started here meanwhile."""
    if (path / RECIPE_FILE).exists():
        raise RunError(f"{path} is in use; give another folder with --out")
    write_atomically(path / RECIPE_FILE, recipe.model_dump_json(indent=2).encode())
    split.write(path / SPLIT_FILE, sides)
    write_atomically(path / PROVENANCE_FILE, provenance.model_dump_json(indent=2).encode())
    for option, name in _LISTS.items():
        if (listed := getattr(recipe, option)) is not None:
            write_atomically(path / name, Path(listed).read_bytes())


def read_start(path: Path) -> tuple[Recipe, Split]:
    """The recipe and the split of a stopped run. RunError if it is not a run, or is complete."""
    if (path / RUN_FILE).exists():
        raise RunError(f"{path} is complete: there is nothing to resume")
    try:
        recipe = Recipe.model_validate_json((path / RECIPE_FILE).read_bytes())
    except OSError as error:
        raise RunError(f"{path} is not a run: {path / RECIPE_FILE} is missing") from error
    except ValidationError as error:
        raise RunError(f"{path / RECIPE_FILE} is corrupt: {error.errors()[0]['msg']}") from error
    return recipe, split.read(path / SPLIT_FILE)


def read_provenance(path: Path) -> Provenance:
    try:
        return Provenance.model_validate_json((path / PROVENANCE_FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise RunError(f"{path / PROVENANCE_FILE} is missing or corrupt") from error


def with_own_lists(path: Path, recipe: Recipe) -> Recipe:
    """The recipe with the run's own copies of the lists of images and labels, if there were any."""
    own = {option: str(path / name) for option, name in _LISTS.items() if getattr(recipe, option)}
    return recipe.model_copy(update=own)


def write_epochs(path: Path, epochs: Sequence[Epoch]) -> None:
    """Write `metrics.jsonl` as a whole."""
    text = "".join(f"{json.dumps(epoch.line())}\n" for epoch in epochs)
    write_atomically(path / EPOCHS_FILE, text.encode())


def read_epochs(path: Path) -> list[Epoch]:
    """The lines of `metrics.jsonl`. RunError if it is missing or corrupt."""
    try:
        text = (path / EPOCHS_FILE).read_text(encoding="utf-8")
        return [Epoch(**json.loads(line)) for line in text.splitlines()]
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{path / EPOCHS_FILE} is missing or corrupt") from error


def write_curves(path: Path, rows: Sequence[tuple[float, float]]) -> None:
    """Write `curves.csv`: the head's learning rate and the mean loss of each step, from 1."""
    lines = (f"{step},{rate:.6g},{loss:.6g}\n" for step, (rate, loss) in enumerate(rows, 1))
    write_atomically(path / CURVES_FILE, ("step,rate,loss\n" + "".join(lines)).encode())


def write_weights(path: Path, weights: bytes) -> None:
    """Write `network.safetensors`; weights: as `Network.weights` returns them."""
    write_atomically(path / WEIGHTS_FILE, weights)


def write_novelty(path: Path, novelty: "Novelty", held_out: HeldOut) -> None:
    """Write `novelty.safetensors`, and the validation images' values."""
    write_atomically(path / NOVELTY_FILE, novelty.file())
    write_atomically(path / CONFORMAL_FILE, conformal.file_of({"fp32": held_out}))


def write_end(path: Path, outcome: Outcome) -> None:
    write_atomically(path / RUN_FILE, outcome.model_dump_json(indent=2).encode())


def read(path: Path) -> Run:
    """A complete run. RunError if it is incomplete, corrupt or missing."""
    try:
        outcome = Outcome.model_validate_json((path / RUN_FILE).read_bytes())
    except OSError as error:
        raise RunError(
            f"{path} is not a complete run: {path / RUN_FILE} is missing; make one with"
            " `python -m training train DATA --out RUN`"
        ) from error
    except ValidationError as error:
        raise RunError(f"{path / RUN_FILE} is corrupt: {error.errors()[0]['msg']}") from error
    sides = split.read(path / SPLIT_FILE)
    if sides.fingerprint() != outcome.provenance.data_fingerprint:
        raise RunError(f"{path / SPLIT_FILE} was changed: it does not match {RUN_FILE}")
    return Run(path, outcome, sides)
