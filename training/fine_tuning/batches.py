"""The batches of a run: which images each step sees, and how, decided by seed and step alone."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.bundle import sha256
from training.data.augment import augment, draw
from training.data.image_source import ImageSource, image_source
from training.data.prepare import Prepared
from training.data.targets import encode, loss_targets
from training.distributed import Ranks
from training.fine_tuning.step_timer import Stages
from training.recipe import Recipe

Batch = tuple[Tensor, Tensor, float]
"""images float32 `[n, 3, S, S]`, their targets, and the weight of their mean loss."""


@dataclass(frozen=True)
class Training:
    """What is trained on: where the pictures come from, their names, and their targets.

    targets: indices `[N]` (single-label) or 0 and 1 `[N, C]`, float32 (multi-label).
    """

    source: ImageSource
    files: Sequence[str]
    targets: Tensor


def training_set(images: Prepared, recipe: Recipe, device: torch.device) -> Training:
    """The images that are trained on, decoded where they are cached."""
    chosen, labels = images.split.train, images.dataset.labels
    paths = [images.dataset.root / record.file for record in chosen]
    started = time.perf_counter()
    source = image_source(paths, recipe, device, images.contents.take)
    seconds = time.perf_counter() - started
    print(f"training images come from {source.place}, ready after {seconds:.1f} s")
    targets = loss_targets(encode(chosen, labels), images.dataset.task)
    return Training(source, [record.file for record in chosen], targets)


def order(training: Training, recipe: Recipe, epoch: int) -> tuple[Tensor, ...]:
    """Every image once, in an order of this epoch's own: the rows of each step, nearly as many."""
    chance = generator(recipe.seed, "order", epoch)
    rows = torch.randperm(len(training.targets), generator=chance)
    return rows.tensor_split(recipe.steps(len(training.targets)))


def batches(
    training: Training,
    rows_of_steps: Sequence[Tensor],
    first_step: int,
    recipe: Recipe,
    ranks: Ranks,
    stages: Stages,
) -> Iterator[Batch]:
    """This process's part of each step, on its device.

    The weight makes the mean of the processes' losses the mean over the whole batch.
    """
    shares = [ranks.share(rows) for rows in rows_of_steps]
    squares = training.source.batches(shares)
    for number, (rows, mine) in enumerate(zip(rows_of_steps, shares, strict=True)):
        stages.begin()
        pixels, shapes = next(squares)
        pixels = pixels.to(ranks.device, non_blocking=True)
        stages.lap("the pictures")
        chance = generator(recipe.seed, "views", first_step + number)
        draws = ranks.share(draw(len(rows), chance).T).T
        images = augment(pixels, shapes, draws, recipe)
        images = images.contiguous(memory_format=torch.channels_last)
        stages.lap("augmentation")
        targets = training.targets[mine].to(ranks.device, non_blocking=True)
        yield images, targets, len(mine) * ranks.count / len(rows)


def generator(seed: int, purpose: str, number: int) -> torch.Generator:
    """Chance for one purpose at one place of a run, the same whenever it is asked for."""
    digest = sha256(f"{seed} {purpose} {number}".encode())
    return torch.Generator().manual_seed(int(digest[:15], 16))
