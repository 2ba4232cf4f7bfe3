"""Training steps on noise images, as `train` makes them; for benchmarks of the step itself."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from testkit import noise_images
from training.fine_tuning import batches
from training.fine_tuning.batches import Batch, TrainingSet
from training.fine_tuning.schedule import phases
from training.fine_tuning.step_timer import Stages
from training.fine_tuning.trainer import FineTuning
from training.hardware import pick_dtype
from training.network.resnet import Network
from training.recipe import Recipe

STEPS, BATCH = 4, 32  # of an epoch
CPU = torch.device("cpu")


@dataclass(frozen=True)
class NoiseSteps:
    """An epoch on images for `size_px`, in the data type that `auto` chooses here."""

    recipe: Recipe
    images: TrainingSet

    def batches(self) -> Iterator[Batch]:
        """Those of the epoch, augmented anew."""
        rows = batches.order(self.images, self.recipe, 0)
        return batches.batches(self.images, rows, 0, self.recipe, noise_images.ALONE, Stages(CPU))

    def tuning(
        self, layout: torch.memory_format = torch.channels_last
    ) -> tuple[FineTuning, torch.optim.AdamW]:
        """A new ResNet-18, all of whose layers are trained."""
        network = Network("resnet18", 3).to(memory_format=layout)
        tuning = FineTuning(network, self.images, "single", self.recipe, noise_images.ALONE)
        return tuning, tuning.prepare(phases(self.recipe, STEPS, len(network.blocks))[-1])


def noise_steps(size_px: int) -> NoiseSteps:
    side = size_px * 5 // 4
    pixels = torch.randint(0, 256, (STEPS * BATCH, side, side, 3), dtype=torch.uint8)
    images = noise_images.training(pixels, torch.arange(len(pixels)) % 3)
    dtype = pick_dtype("auto", CPU)
    return NoiseSteps(Recipe(data=".", image_size=size_px, batch_size=BATCH, dtype=dtype), images)
