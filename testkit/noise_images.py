"""Noise images in memory that a network learns from, for tests of the loop without files."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.manifest import Task
from testkit import image_sets
from testkit.image_sets import SIZE_PX
from training.data.image_source import Cached
from training.distributed import Ranks
from training.fine_tuning.batches import TrainingSet
from training.fine_tuning.validation import Validation
from training.network.resnet import Network

CPU = torch.device("cpu")
ALONE = Ranks(0, 1, CPU)
STILL: dict[str, Any] = {"flip": 0, "rotation": 0, "scale": 1, "warp": 0, "light": 0}


def training_images(task: Task = "single", count: int = 24) -> TrainingSet:
    """Grey noise, brighter in the channel of each label."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 120, (count, SIZE_PX, SIZE_PX, 3), generator=generator)
    truth = torch.nn.functional.one_hot(torch.arange(count) % 3, 3)
    if task == "multi":
        truth = truth | truth.roll(count // 2, 0)
    pixels += truth[:, None, None, :] * 100
    targets = truth.argmax(1) if task == "single" else truth.float()
    return training(pixels.to(torch.uint8), targets)


def training(pixels: Tensor, targets: Tensor) -> TrainingSet:
    names = [f"{number}.jpg" for number in range(len(pixels))]
    return TrainingSet(Cached(pixels, torch.ones(len(pixels), 2)), names, targets)


def images_of(given: TrainingSet) -> Tensor:
    """As an augmentation of strength 0 returns them."""
    ((pixels, _),) = given.source.batches([torch.arange(len(given.targets))])
    return pixels.permute(0, 3, 1, 2).float()


def network(labels: int = 3, seed: int = 0) -> Network:
    """A seeded ResNet-18, in evaluation mode; the training loop switches modes itself."""
    torch.manual_seed(seed)
    return Network("resnet18", labels).eval()


def pixels(count: int, side_px: int = 64) -> Tensor:
    """uint8 `[N, S, S, 3]`."""
    generator = torch.Generator().manual_seed(count)
    shape = (count, side_px, side_px, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def validation_of(
    own: Network, path: Path, task: Task = "single", ranks: Ranks = ALONE, **changes: Any
) -> Validation:
    """On the 24 images; an epoch has two steps."""
    given = training_images(task)
    images = images_of(given).permute(0, 2, 3, 1).to(torch.uint8)
    learned = given.targets.numpy()
    targets = learned > 0 if task == "multi" else np.eye(3, dtype=np.bool_)[learned]
    recipe = image_sets.recipe(task=task, **changes)
    return Validation(path, own, task, recipe, ranks, images, targets, 2)


def weights_of(own: Network) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in own.resnet.state_dict().items()}


def the_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)
