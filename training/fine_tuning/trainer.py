"""The training loop: the head alone, then the whole network, each with a one-cycle schedule.

All random numbers follow from the seed and the step's number alone. So a killed run resumes from
a checkpoint as if it had not been killed, and several processes draw the same numbers as one.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from models.errors import RecipeError, RunError
from models.manifest import Task
from models.wording import counted, some
from training import output
from training.distributed import Ranks
from training.fine_tuning import batches, checkpoint, schedule
from training.fine_tuning.batches import Batch, TrainingSet
from training.fine_tuning.checkpoint import Checkpoint, Progress
from training.fine_tuning.loss import loss_of, precision
from training.fine_tuning.schedule import Phase, phases
from training.fine_tuning.step_timer import Stages
from training.fine_tuning.validation import Validation
from training.network.resnet import Network
from training.recipe import Recipe
from training.run_folder import Epoch

_NORM_MAX = 1.0  # of the gradient
_LOSS_STEPS = 10  # steps between reads of the loss: each read waits for the GPU


class DivergedError(RunError):
    """A loss is not finite; `files` are the images of its step."""

    def __init__(self, message: str, files: list[str]) -> None:
        super().__init__(message)
        self.files = files


@dataclass
class FineTuning:
    """Trains `network` in place."""

    network: Network
    training: TrainingSet
    task: Task
    recipe: Recipe
    ranks: Ranks
    _began: float = field(default_factory=time.perf_counter)

    def run(
        self,
        progress: Progress,
        start: Checkpoint | None = None,
        validation: Validation | None = None,
        path: Path | None = None,
    ) -> None:
        """Train all phases, or what is left of them; extends `progress`. Raises DivergedError.

        start: the checkpoint that `progress` was read from, when resuming. After each epoch the
        network is validated, which may stop training early, and a checkpoint is written to the
        run's folder `path`; also every `recipe.checkpoint_s` seconds.
        """
        if self.ranks.count > 1 and self.recipe.norms_by_batch:
            nn.SyncBatchNorm.convert_sync_batchnorm(self.network)  # type: ignore[no-untyped-call]
        if start:
            start.restore(self.network)
            if progress.epochs:
                self._began -= progress.epochs[-1].seconds
        steps = self.recipe.steps(len(self.training.targets))
        every = phases(self.recipe, steps, len(self.network.blocks))
        last, validating = every[-1].last, 0.0
        if validation:  # forward passes, as `schedule.work` counts them
            validating = len(validation.images) / self.recipe.batch_size
        total, done = (
            schedule.work(every, step) + step // steps * validating
            for step in (last, progress.step)
        )
        with output.whole(total, done) as bar:
            for phase in every:
                if progress.step >= phase.last or (validation and validation.should_stop(progress)):
                    continue
                optimizer = self.prepare(phase)
                if start and progress.step > phase.first:
                    start.restore(self.network, optimizer)
                learner = self.ranks.wrap(self.network)
                while progress.step < phase.last:
                    if validation and validation.should_stop(progress):
                        break
                    bar.begin(f"epoch {progress.step // steps + 1} of {last // steps}")
                    self._set_norms(phase)  # validation sets evaluation mode
                    epoch = self._epoch(phase, learner, optimizer, progress, path, bar)
                    progress.epochs.append(epoch)
                    if validation:
                        validation.after_epoch(progress)
                        bar.advance(validating)
                    self._save(path, progress, optimizer)

    def _save(self, path: Path | None, progress: Progress, optimizer: torch.optim.AdamW) -> None:
        if path and self.ranks.first:
            checkpoint.write(path, progress, self.network, optimizer)

    def prepare(self, phase: Phase) -> torch.optim.AdamW:
        """Unfreeze this phase's layers and return their optimizer."""
        self.network.requires_grad_(phase.name == "whole")
        self.network.resnet.fc.requires_grad_(True)
        self._set_norms(phase)
        return schedule.optimizer(self.network.blocks, phase.peaks, self.recipe.weight_decay)

    def _set_norms(self, phase: Phase) -> None:
        self.network.train(phase.name == "whole" and self.recipe.norms_by_batch)

    def _epoch(
        self,
        phase: Phase,
        learner: nn.Module,
        optimizer: torch.optim.AdamW,
        progress: Progress,
        path: Path | None,
        bar: output.Whole,
    ) -> Epoch:
        """Train the remaining steps of an epoch. Prints once per phase what limits the speed."""
        steps = self.recipe.steps(len(self.training.targets))
        number, done = divmod(progress.step, steps)
        order = batches.order(self.training, self.recipe, number)
        stages = Stages(self.ranks.device)
        given = batches.batches(
            self.training, order[done:], progress.step, self.recipe, self.ranks, stages
        )
        pending: list[Tensor] = []
        started = saved = time.perf_counter()
        for batch in given:
            schedule.apply(optimizer, phase.progress(progress.step + len(pending)))
            pending.append(self.step(learner, optimizer, batch))
            stages.lap("the network")
            bar.advance(schedule.WORK[phase.name])
            if len(pending) < _LOSS_STEPS:
                continue
            self._read_losses(pending, progress, order)
            due = time.perf_counter() - saved >= self.recipe.checkpoint_s
            if due and progress.step % steps:
                self._save(path, progress, optimizer)
                saved = time.perf_counter()
        self._read_losses(pending, progress, order)
        seconds = time.perf_counter() - started
        total = sum(
            loss * len(rows)
            for loss, rows in zip(progress.losses[number * steps :], order, strict=True)
        )
        if not any(epoch.phase == phase.name for epoch in progress.epochs):
            output.note(stages.verdict())
        return Epoch(
            phase=phase.name,
            epoch=number + 1,
            train_loss=round(total / len(self.training.targets), 5),
            images_per_s=round(sum(map(len, order[done:])) / seconds, 1),
            seconds=round(time.perf_counter() - self._began, 1),
        )

    def step(self, learner: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> Tensor:
        """One optimizer step; returns this process's part of the batch's mean loss, `[]`."""
        images, targets, weight = batch
        with precision(self.ranks.device, self.recipe.dtype):
            logits = learner(images)
        loss = self.loss(logits.float(), targets) * weight
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), _NORM_MAX)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach() / self.ranks.count

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return loss_of(logits, targets, self.task)

    def _read_losses(
        self, pending: list[Tensor], progress: Progress, order: Sequence[Tensor]
    ) -> None:
        """Move the losses of the last steps to `progress`. DivergedError if one is not finite."""
        if not pending:
            return
        losses = self.ranks.sum(torch.stack(pending)).tolist()
        pending.clear()
        for loss in losses:
            if not math.isfinite(loss):
                step = progress.step
                rows = order[step % len(order)].tolist()
                files = [self.training.files[row] for row in rows]
                raise DivergedError(
                    f"the loss of step {step + 1} is {loss}: training diverged; use a lower --lr"
                    f" than {self.recipe.lr}, or check the images of that step:"
                    f" {some([str(file) for file in files], 2)}",
                    files,
                )
            progress.losses.append(loss)


def check_processes(recipe: Recipe, ranks: Ranks, images: int) -> None:
    """RecipeError if several processes could not train as one would on this many images."""
    least = images // recipe.steps(images)
    if least < ranks.count:
        raise RecipeError(
            f"{counted(ranks.count, 'process', 'processes')}, but only {counted(least, 'image')}"
            f" in a step: use fewer processes or a larger --batch-size than {recipe.batch_size}"
        )
    if ranks.count > 1 and recipe.norms_by_batch and ranks.device.type != "cuda":
        raise RecipeError(
            f"{ranks.count} processes on the CPU would each normalise by their own part of the"
            " batch: use --norms fixed"
        )
