"""The training loop: the head alone, then the whole network, each under a one-cycle schedule.

Whatever chance decides follows from the seed and the step's number alone. So a run that was killed
goes on from a checkpoint as if it had not been, and several processes draw what one would.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from models.errors import RecipeError, RunError
from models.manifest import Task
from training.distributed import Ranks
from training.fine_tuning import batches, schedule
from training.fine_tuning.batches import Batch, Training
from training.fine_tuning.checkpoint import Checkpoint, Progress
from training.fine_tuning.step_timer import Stages
from training.hardware import pick_dtype
from training.network.resnet import Network
from training.recipe import Dtype, Recipe

_NORM_MAX = 1.0  # of the gradient
_LOOK = 10  # steps between looks at the loss: on a GPU each look waits for it


@dataclass(frozen=True)
class Phase:
    """Steps from `first` up to `last`, with one peak rate for each block of the network."""

    name: str
    first: int
    last: int
    peaks: list[float]

    def progress(self, step: int) -> float:
        """Where in the phase the middle of a step is, in (0, 1)."""
        return (step - self.first + 0.5) / (self.last - self.first)


@dataclass(frozen=True)
class Epoch:
    """What one epoch did; train_loss is the mean over its images, under augmentation."""

    phase: str
    epoch: int
    train_loss: float
    images_per_s: float
    stages: Stages


class DivergedError(RunError):
    """A loss was not finite; `files` are the images of its step."""

    def __init__(self, message: str, files: list[str]) -> None:
        super().__init__(message)
        self.files = files


@dataclass
class FineTuning:
    """Trains `network` in place."""

    network: Network
    training: Training
    task: Task
    recipe: Recipe
    ranks: Ranks

    def run(
        self,
        start: Checkpoint | None,
        after_epoch: Callable[[Epoch, Progress], None],
        save: Callable[[Progress, torch.optim.Optimizer], None],
        enough: Callable[[Progress], bool] = lambda _: False,
    ) -> None:
        """All phases, or what is left of them after `start`. Raises DivergedError.

        `after_epoch` is called after each epoch, and then `save`, which is also called every
        `recipe.checkpoint_s` seconds; `save` in the first process only. `enough` is asked before
        each epoch whether to end.
        """
        if self.ranks.count > 1 and self.recipe.norms_by_batch:
            nn.SyncBatchNorm.convert_sync_batchnorm(self.network)  # type: ignore[no-untyped-call]
        progress = start.progress if start else Progress()
        if start:
            start.restore(self.network)
        steps = self.recipe.steps(len(self.training.targets))
        for phase in phases(self.recipe, steps, len(self.network.blocks)):
            if progress.step >= phase.last or enough(progress):
                continue
            optimizer = self.prepare(phase)
            if start and progress.step > phase.first:
                start.restore(self.network, optimizer)
            learner = self.ranks.wrap(self.network)
            while progress.step < phase.last and not enough(progress):
                self._set_norms(phase)  # an evaluation may have been in between
                epoch = self._epoch(phase, learner, optimizer, progress, save)
                after_epoch(epoch, progress)
                if self.ranks.first:
                    save(progress, optimizer)

    def prepare(self, phase: Phase) -> torch.optim.AdamW:
        """Let learn what the phase is about; its optimizer."""
        self.network.requires_grad_(phase.name == "whole")
        self.network.resnet.fc.requires_grad_(True)
        self._set_norms(phase)
        return schedule.optimizer(self.network.blocks, phase.peaks, self.recipe.weight_decay)

    def _set_norms(self, phase: Phase) -> None:
        self.network.train(phase.name == "whole" and self.recipe.norms_by_batch)

    def curve(self, progress: Progress) -> list[tuple[float, float]]:
        """The head's rate and the loss, of each step done."""
        steps = self.recipe.steps(len(self.training.targets))
        return [
            (phase.peaks[-1] * schedule.cycle(phase.progress(step))[0], progress.losses[step])
            for phase in phases(self.recipe, steps, len(self.network.blocks))
            for step in range(phase.first, min(phase.last, progress.step))
        ]

    def _epoch(
        self,
        phase: Phase,
        learner: nn.Module,
        optimizer: torch.optim.AdamW,
        progress: Progress,
        save: Callable[[Progress, torch.optim.Optimizer], None],
    ) -> Epoch:
        """The steps that are left of an epoch."""
        steps = self.recipe.steps(len(self.training.targets))
        number, done = divmod(progress.step, steps)
        order = batches.order(self.training, self.recipe, number)
        stages = Stages(self.ranks.device)
        bar = tqdm(
            batches.batches(
                self.training, order[done:], progress.step, self.recipe, self.ranks, stages
            ),
            f"epoch {number + 1}, {phase.name}",
            steps,
            initial=done,
            unit=" steps",
            leave=False,
            disable=None if self.ranks.first else True,
        )
        pending: list[Tensor] = []
        started = saved = time.perf_counter()
        for batch in bar:
            schedule.turn(optimizer, phase.progress(progress.step + len(pending)))
            pending.append(self.step(learner, optimizer, batch))
            stages.lap("the network")
            if len(pending) < _LOOK:
                continue
            self._settle(pending, progress, order)
            due = time.perf_counter() - saved >= self.recipe.checkpoint_s
            if due and self.ranks.first and progress.step % steps:
                save(progress, optimizer)
                saved = time.perf_counter()
        self._settle(pending, progress, order)
        seconds = time.perf_counter() - started
        total = sum(
            loss * len(rows)
            for loss, rows in zip(progress.losses[number * steps :], order, strict=True)
        )
        return Epoch(
            phase.name,
            number + 1,
            total / len(self.training.targets),
            sum(map(len, order[done:])) / seconds,
            stages,
        )

    def step(self, learner: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> Tensor:
        """One step down the gradient; this process's part of the batch's mean loss, `[]`."""
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

    def _settle(self, pending: list[Tensor], progress: Progress, order: Sequence[Tensor]) -> None:
        """Move the losses of the last steps to `progress`; stop if one is not finite."""
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
                    f" than {self.recipe.lr}, or look at the images of that step: {files[0]},"
                    f" {files[-1]} and {len(files) - 2} others",
                    files,
                )
            progress.losses.append(loss)


def check_processes(recipe: Recipe, ranks: Ranks, images: int) -> None:
    """RecipeError where several processes could not do what one would on as many images."""
    least = images // recipe.steps(images)
    if least < ranks.count:
        raise RecipeError(
            f"{ranks.count} processes, but only {least} images in a step: use fewer processes or a"
            f" larger --batch-size than {recipe.batch_size}"
        )
    if ranks.count > 1 and recipe.norms_by_batch and ranks.device.type != "cuda":
        raise RecipeError(
            f"{ranks.count} processes on the CPU would each normalise by a batch of their own: use"
            " --norms fixed"
        )


def phases(recipe: Recipe, steps: int, blocks: int) -> list[Phase]:
    """The phases of a run with `steps` steps an epoch; one without epochs is left out."""
    frozen, end = recipe.freeze_epochs * steps, (recipe.freeze_epochs + recipe.epochs) * steps
    alone = [0.0] * (blocks - 1) + [recipe.head_rate]
    whole = schedule.rates(*recipe.whole_rates, blocks)
    both = [Phase("head", 0, frozen, alone), Phase("whole", frozen, end, whole)]
    return [phase for phase in both if phase.first < phase.last]


def precision(device: torch.device, dtype: Dtype) -> torch.autocast:
    """Mixed precision with bfloat16, if that is what `dtype` says or stands for on the device."""
    mixed = pick_dtype(dtype, device) == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=mixed)


def loss_of(logits: Tensor, targets: Tensor, task: Task) -> Tensor:
    """Mean cross-entropy (targets: indices `[N]`) or binary cross-entropy (float `[N, C]`)."""
    if task == "single":
        return nn.functional.cross_entropy(logits, targets)
    return nn.functional.binary_cross_entropy_with_logits(logits, targets)
