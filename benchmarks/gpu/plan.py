"""What the steps measure: at full size on a GPU, or rehearsed at a small one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from models.manifest import Precision
from training.recipe import Arch

Values = dict[str, float | str]
"""What a step measured: a name with its unit -> a number, or words."""


@dataclass(frozen=True)
class Plan:
    """Sizes of all steps. photo_px: width and height of the drawn JPEGs; seconds: of each load."""

    device: Literal["cuda", "cpu"]
    work: Path
    arch: Arch = "resnet50"
    size_px: int = 224
    photo_px: tuple[int, int] = (500, 375)
    images_per_label: int = 800
    valid: float = 0.1
    epochs: int = 8
    batch_size: int = 128
    batches: tuple[int, ...] = (1, 8, 32)
    workers: tuple[int, ...] = (1, 2, 4, 8)
    precisions: tuple[Precision, ...] = ("fp32", "fp16")
    clients: int = 128
    client_processes: int = 4
    seconds: float = 4.0
    swaps: int = 30

    @property
    def images(self) -> Path:
        return self.work / "images"

    @property
    def run(self) -> Path:
        return self.work / "run"

    @property
    def store(self) -> Path:
        """Of the model `bench`."""
        return self.work / "store"


def small(device: Literal["cuda", "cpu"], work: Path) -> Plan:
    """Every line once: two minutes on two cores."""
    return Plan(
        device,
        work,
        arch="resnet18",
        size_px=32,
        photo_px=(64, 48),
        images_per_label=12,
        valid=0.3,
        epochs=2,
        batch_size=16,
        batches=(1, 2),
        workers=(1,),
        clients=2,
        client_processes=1,
        seconds=0.2,
        swaps=2,
    )
