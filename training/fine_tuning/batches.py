"""The batches of a run: the images and views of each step follow from seed and step alone."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.bundle import sha256
from training import output
from training.data.augment import augment, draw
from training.data.image_source import ImageSource, image_source
from training.data.prepare import Prepared
from training.data.targets import encode, loss_targets
from training.distributed import Ranks
from training.fine_tuning import balance
from training.fine_tuning.step_timer import Stages
from training.recipe import Recipe

Batch = tuple[Tensor, Tensor, float]
"""images float32 `[n, 3, S, S]`, their targets, and the weight of their mean loss."""


@dataclass(frozen=True)
class TrainingSet:
    """The training images: their source, file names and targets.

    targets: indices `[N]` (single-label) or 0 and 1 `[N, C]`, float32 (multi-label).
    """

    source: ImageSource
    files: Sequence[str]
    targets: Tensor


def training_set(images: Prepared, recipe: Recipe, device: torch.device) -> TrainingSet:
    """The training images, decoded already if they are cached."""
    chosen, labels = images.split.train, images.dataset.labels
    paths = [images.dataset.root / record.file for record in chosen]
    started = time.perf_counter()
    source = image_source(paths, recipe, device, images.contents.take)
    seconds = time.perf_counter() - started
    output.note(f"training images come from {source.place}, ready after {seconds:.1f} s")
    targets = loss_targets(encode(chosen, labels), images.dataset.task)
    return TrainingSet(source, [record.file for record in chosen], targets)


def order(training: TrainingSet, recipe: Recipe, epoch: int) -> tuple[Tensor, ...]:
    """The rows of each step, shuffled anew each epoch, in near-equal batches.

    Every image once, or as many images as there are by the recipe's `balance`.
    """
    shuffling = generator(recipe.seed, "order", epoch)
    if recipe.balance == "root":
        rows = balance.draw(balance.shares(training.targets), shuffling)
    else:
        rows = torch.randperm(len(training.targets), generator=shuffling)
    return rows.tensor_split(recipe.steps(len(training.targets)))


def batches(
    training: TrainingSet,
    rows_of_steps: Sequence[Tensor],
    first_step: int,
    recipe: Recipe,
    ranks: Ranks,
    stages: Stages,
) -> Iterator[Batch]:
    """This process's part of each step's batch, on its device.

    With the weights, the mean of the processes' losses is the mean over the whole batch.
    """
    shares = [ranks.share(rows) for rows in rows_of_steps]
    squares = training.source.batches(shares)
    for number, (rows, mine) in enumerate(zip(rows_of_steps, shares, strict=True)):
        stages.begin()
        pixels, shapes = next(squares)
        pixels = pixels.to(ranks.device, non_blocking=True)
        stages.lap("image loading")
        augmenting = generator(recipe.seed, "views", first_step + number)
        draws = ranks.share(draw(len(rows), augmenting).T).T
        images = augment(pixels, shapes, draws, recipe)
        images = images.contiguous(memory_format=torch.channels_last)
        stages.lap("augmentation")
        targets = training.targets[mine].to(ranks.device, non_blocking=True)
        yield images, targets, len(mine) * ranks.count / len(rows)


def generator(seed: int, purpose: str, number: int) -> torch.Generator:
    """The random generator for one purpose at one point of a run, the same at each call."""
    digest = sha256(f"{seed} {purpose} {number}".encode())
    return torch.Generator().manual_seed(int(digest[:15], 16))
