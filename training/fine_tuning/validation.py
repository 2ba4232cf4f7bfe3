"""What happens between epochs: measured on the held-out images, written down, checkpointed."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.manifest import Task
from training import run_folder
from training.data import prepare
from training.evaluation import evaluate, metrics
from training.evaluation.scorer import logits_of
from training.fine_tuning import checkpoint
from training.fine_tuning.checkpoint import Progress
from training.fine_tuning.trainer import Epoch, FineTuning, loss_of, precision


@dataclass(frozen=True)
class HeldOut:
    """This process's held-out images uint8 `[n, S, S, 3]`; the truth of all of them `[N, C]`."""

    images: Tensor
    truth: NDArray[np.bool_]


class Watch:
    """Follows the fine-tuning of one run; only the first process writes and prints."""

    def __init__(self, path: Path, tuning: FineTuning, held_out: HeldOut) -> None:
        self._path, self._tuning, self._held_out = path, tuning, held_out
        self._figure = evaluate.HEADLINE[tuning.task]
        self._began = time.perf_counter()
        self._phases_told: set[str] = set()

    def logits(self) -> NDArray[np.float32]:
        """Of all held-out images `[N, C]`, in float32, the same in each process."""
        device = self._tuning.ranks.device
        own = logits_of(self._tuning.network, self._held_out.images, device)
        return self._tuning.ranks.gather(torch.from_numpy(own)).numpy()

    def after_epoch(self, epoch: Epoch, progress: Progress) -> None:
        """Measure, in training's own precision, and write a line of `metrics.jsonl`."""
        task, truth = self._tuning.task, self._held_out.truth
        with precision(self._tuning.ranks.device, self._tuning.recipe.dtype):
            logits = self.logits()
        loss = loss_of(torch.from_numpy(logits), prepare.loss_targets(truth, task), task)
        line = {
            "phase": epoch.phase,
            "epoch": epoch.epoch,
            "train_loss": round(epoch.train_loss, 5),
            "valid_loss": round(float(loss), 5),
            self._figure: round(_headline(logits, truth, task), 5),
            "images_per_s": round(epoch.images_per_s, 1),
            "seconds": round(time.perf_counter() - self._began, 1),
        }
        progress.epochs.append(line)
        if not self._tuning.ranks.first:
            return
        if self._tuning.recipe.early_stop and self._best(progress) == len(progress.epochs) - 1:
            checkpoint.write_best(self._path, self._tuning.network)
        run_folder.write_epochs(self._path, progress.epochs)
        run_folder.write_curves(self._path, self._tuning.curve(progress))
        print("  ".join(f"{name} {value}" for name, value in line.items()))
        if epoch.phase not in self._phases_told:
            self._phases_told.add(epoch.phase)
            print(epoch.stages.verdict())

    def save(self, progress: Progress, optimizer: torch.optim.Optimizer) -> None:
        checkpoint.write(self._path, progress, self._tuning.network, optimizer)

    def enough(self, progress: Progress) -> bool:
        """Whether `--early-stop` ends here: in the phase that comes last, not before."""
        recipe = self._tuning.recipe
        last = "whole" if recipe.epochs else "head"
        since = progress.epochs[self._best(progress) + 1 :]
        waited = sum(epoch["phase"] == last for epoch in since)
        return recipe.early_stop is not None and waited >= recipe.early_stop

    def _best(self, progress: Progress) -> int:
        """The place of the epoch with the best held-out figure, the first of equals; 0 of none."""
        sign = 1 if self._tuning.task == "single" else -1
        figures = [sign * epoch[self._figure] for epoch in progress.epochs]
        return int(np.argmin(figures)) if figures else 0


def _headline(logits: NDArray[np.float32], truth: NDArray[np.bool_], task: Task) -> float:
    if task == "single":
        return float((logits.argmax(1) != truth.argmax(1)).mean())
    return float(np.nanmean(metrics.label_precisions(logits, truth)))
