"""A run folder: what was trained, on what, and what came out.

recipe.json          the recipe as resolved, written first
split.jsonl          every image's hash, labels and side
metrics.jsonl        a line an epoch
network.safetensors  the weights, with torchvision's keys
metrics.json         figures on the held-out images, with intervals
predictions.csv      path, target, every score of the held-out images
run.json             written last: where it exists, the run is complete
"""

import datetime
import json
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from models.bundle import write_atomically
from models.errors import RunError
from models.manifest import Baseline, Frozen, Metric, Preprocess, Probability, Provenance, Task
from training import split
from training.network import Network
from training.recipe import Arch, Recipe
from training.split import Item

RECIPE_FILE = "recipe.json"
SPLIT_FILE = "split.jsonl"
EPOCHS_FILE = "metrics.jsonl"
WEIGHTS_FILE = "network.safetensors"
RUN_FILE = "run.json"
_LIBRARIES = ("torch", "torchvision", "onnx", "onnxscript", "numpy", "pillow")


class Outcome(Frozen):
    """`run.json`: what a finished run hands to evaluation and export."""

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
    def _one_threshold_a_label(self) -> Self:
        if self.task == "multi" and len(self.thresholds or ()) != len(self.labels):
            raise ValueError("a multi-label run needs one threshold a label")
        return self


@dataclass(frozen=True)
class Run:
    """A complete run, read back."""

    path: Path
    outcome: Outcome
    items: list[Item]

    def network(self) -> Network:
        """The trained network, in evaluation mode, on the CPU. RunError if it is damaged."""
        network = Network(self.outcome.arch, len(self.outcome.labels))
        file = self.path / WEIGHTS_FILE
        try:
            network.resnet.load_state_dict(load_file(file))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise RunError(f"{file} is missing or damaged") from error
        return network.eval()


def create(out: Path | None) -> Path:
    """A new, empty run folder: `out`, or `runs/<time>`. RunError if it is in use."""
    path = out or Path("runs") / f"{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}"
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunError(f"{path} exists and is not empty; give another folder with --out")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{path} cannot be made: {error.strerror}") from error
    return path


def write_start(path: Path, recipe: Recipe, items: list[Item]) -> None:
    write_atomically(path / RECIPE_FILE, recipe.model_dump_json(indent=2).encode())
    split.write(path / SPLIT_FILE, items)


def append_epoch(path: Path, line: dict[str, object]) -> None:
    with (path / EPOCHS_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def write_end(path: Path, network: Network, outcome: Outcome) -> None:
    state = {key: value.contiguous() for key, value in network.resnet.state_dict().items()}
    write_atomically(path / WEIGHTS_FILE, save(state))
    write_atomically(path / RUN_FILE, outcome.model_dump_json(indent=2).encode())


def read(path: Path) -> Run:
    """A complete run. RunError if it is none."""
    try:
        outcome = Outcome.model_validate_json((path / RUN_FILE).read_bytes())
    except OSError as error:
        raise RunError(
            f"{path} is no complete run: {path / RUN_FILE} is missing; make one with"
            " `python -m training train DATA --out RUN`"
        ) from error
    except ValidationError as error:
        raise RunError(f"{path / RUN_FILE} is damaged: {error.errors()[0]['msg']}") from error
    items = split.read(path / SPLIT_FILE)
    if split.fingerprint(items) != outcome.provenance.data_fingerprint:
        raise RunError(f"{path / SPLIT_FILE} was changed: it is not what {RUN_FILE} came from")
    return Run(path, outcome, items)


def provenance(
    recipe: Recipe, items: list[Item], weights: tuple[str, str | None, str]
) -> Provenance:
    """Where a network comes from; `weights` as `network.pretrain` describes them."""
    return Provenance(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        git_commit=_git_commit(),
        recipe=recipe.model_dump(),
        data_fingerprint=split.fingerprint(items),
        weights=weights[0],
        weights_sha256=weights[1],
        weights_licence=weights[2],
        libraries={name: metadata.version(name) for name in _LIBRARIES},
    )


def _git_commit() -> str | None:
    """The commit of the code, marked where files differ from it; None outside of git."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
