"""Validation after each epoch: the metrics, the best epoch, and early stopping."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.manifest import Task
from training import run_folder
from training.data.targets import loss_targets
from training.distributed import Ranks
from training.evaluation import metrics
from training.fine_tuning import checkpoint, schedule
from training.fine_tuning.checkpoint import Progress
from training.fine_tuning.loss import loss_of, precision
from training.network.inference import features_and_logits_of, logits_of
from training.network.resnet import Network
from training.recipe import Recipe
from training.run_folder import Epoch


@dataclass(frozen=True)
class Validation:
    """The validation of one run; only the first process writes and prints.

    images: this process's part, uint8 `[n, S, S, 3]`. targets: of all images, bool `[N, C]`.
    steps: per epoch.
    """

    path: Path
    network: Network
    task: Task
    recipe: Recipe
    ranks: Ranks
    images: Tensor
    targets: NDArray[np.bool_]
    steps: int

    def logits(self) -> NDArray[np.float32]:
        """Of all validation images, float32 `[N, C]`, the same in each process."""
        own = logits_of(self.network, self.images, self.ranks.device)
        return self.ranks.gather(torch.from_numpy(own)).numpy()

    def features_and_logits(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Of all validation images, float32 `[N, F]`, pooled, and `[N, C]`; in each process."""
        found = features_and_logits_of(self.network, self.images, self.ranks.device)
        features, logits = (self.ranks.gather(torch.from_numpy(own)).numpy() for own in found)
        return features, logits

    def after_epoch(self, progress: Progress) -> None:
        """Measure the last epoch, in training's own precision, and write it to the run."""
        with precision(self.ranks.device, self.recipe.dtype):
            logits = self.logits()
        loss = loss_of(torch.from_numpy(logits), loss_targets(self.targets, self.task), self.task)
        measured = replace(progress.epochs[-1], valid_loss=round(float(loss), 5))
        if self.task == "single":
            wrong = logits.argmax(1) != self.targets.argmax(1)
            measured = replace(measured, error=round(float(wrong.mean()), 5))
        else:
            precisions = metrics.label_precisions(logits, self.targets)
            measured = replace(measured, map=round(float(np.nanmean(precisions)), 5))
        progress.epochs[-1] = measured
        if not self.ranks.first:
            return
        if self.recipe.early_stop and best(progress.epochs) == len(progress.epochs) - 1:
            checkpoint.write_best(self.path, self.network)
        blocks = len(self.network.blocks)
        run_folder.write_epochs(self.path, progress.epochs)
        curve = schedule.curve(self.recipe, self.steps, blocks, progress.losses)
        run_folder.write_curves(self.path, curve)
        print("  ".join(f"{name} {value}" for name, value in progress.epochs[-1].line().items()))

    def should_stop(self, progress: Progress) -> bool:
        """Whether `--early-stop` ends training now; only the last phase is stopped."""
        last = "whole" if self.recipe.epochs else "head"
        since = progress.epochs[best(progress.epochs) + 1 :]
        waited = sum(epoch.phase == last for epoch in since)
        return self.recipe.early_stop is not None and waited >= self.recipe.early_stop


def best(epochs: Sequence[Epoch]) -> int:
    """Index of the epoch with the lowest error or highest mAP, the first if several; 0 if none.

    All of them must have been validated.
    """
    losses = [-epoch.map if epoch.map is not None else epoch.error for epoch in epochs]
    return int(np.argmin(np.array(losses, np.float64))) if losses else 0
