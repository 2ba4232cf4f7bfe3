"""A run's progress in one file, from which a killed run is resumed as if nothing had happened.

checkpoints/<step>-<hash>.safetensors holds the network, the optimizer's moments, the loss of each
step and the lines of metrics.jsonl. The two newest are kept: a corrupt file costs only its steps.
"""

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from models.bundle import sha256, write_atomically
from models.errors import RunError
from training import output
from training.network.resnet import Network
from training.run_folder import Epoch

FOLDER = "checkpoints"
_KEPT = 2
_BEST = "best.weights"


@dataclass
class Progress:
    """How far a run has come: the loss of each finished step, over all phases, and each epoch.

    threads: of the CPU; with another number of them, the last bits of sums differ.
    """

    losses: list[float] = field(default_factory=list)
    epochs: list[Epoch] = field(default_factory=list)
    threads: int = field(default_factory=torch.get_num_threads)

    @property
    def step(self) -> int:
        """The number of finished steps."""
        return len(self.losses)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, read back."""

    progress: Progress
    tensors: dict[str, Tensor]

    def restore(self, network: Network, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Load the weights into the network, and the moments into its optimizer."""
        state = network.resnet.state_dict()
        network.resnet.load_state_dict({name: self.tensors[f"network.{name}"] for name in state})
        if optimizer is None:
            return
        for name, parameter in network.resnet.named_parameters():
            if parameter.requires_grad:
                moments = {
                    moment: self.tensors[f"{moment}.{name}"] for moment in ("exp_avg", "exp_avg_sq")
                }
                optimizer.state[parameter] = {
                    "step": self.tensors[f"step.{name}"].to(parameter.device),
                    # the fused kernel needs the parameter's memory layout
                    **{m: torch.empty_like(parameter).copy_(v) for m, v in moments.items()},
                }


def write(
    run: Path,
    progress: Progress,
    network: Network,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Write the newest checkpoint atomically, and delete all but two. RunError if that fails."""
    tensors = {f"network.{name}": value for name, value in network.resnet.state_dict().items()}
    for name, parameter in network.resnet.named_parameters():
        moments = optimizer.state.get(parameter, {}) if optimizer else {}
        tensors |= {f"{moment}.{name}": value for moment, value in moments.items()}
    about = {"progress": json.dumps(asdict(progress))}
    data = save({name: value.detach().contiguous() for name, value in tensors.items()}, about)
    folder = run / FOLDER
    newest = folder / f"{progress.step:010}-{sha256(data)[:16]}.safetensors"
    try:
        folder.mkdir(exist_ok=True)
        write_atomically(newest, data)
    except OSError as error:
        raise RunError(
            f"{newest} cannot be written: {error.strerror}; make room, then resume with:"
            f" python -m training train --resume {run}"
        ) from error
    # a later one is corrupt, or the run would have been resumed from it
    kept = [file for file in _newest_first(run) if file.name <= newest.name][:_KEPT]
    for file in folder.iterdir():  # also what a killed process left half-written
        if file not in kept and file.name != _BEST:
            file.unlink()


def read(run: Path) -> Checkpoint | None:
    """The newest intact checkpoint, or None; prints the name of a corrupt one."""
    for file in _newest_first(run):
        if sha256(file.read_bytes()).startswith(file.stem.partition("-")[2]):
            with safe_open(file, "pt") as opened:
                about = json.loads(opened.metadata()["progress"])
            epochs = [Epoch(**epoch) for epoch in about.pop("epochs")]
            return Checkpoint(Progress(epochs=epochs, **about), load_file(file))
        output.note(f"{file} is corrupt: using the one before it")
    return None


def write_best(run: Path, network: Network) -> None:
    """Keep the weights of the best epoch so far."""
    write_atomically(run / FOLDER / _BEST, network.weights())


def restore_best(run: Path, network: Network) -> None:
    network.resnet.load_state_dict(load_file(run / FOLDER / _BEST))


def remove(run: Path) -> None:
    """Delete the checkpoints: a complete run needs none."""
    shutil.rmtree(run / FOLDER, ignore_errors=True)


def _newest_first(run: Path) -> list[Path]:
    return sorted((run / FOLDER).glob("*.safetensors"), reverse=True)
