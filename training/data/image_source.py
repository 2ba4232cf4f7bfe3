"""Training images for the network: cached where they fit, else decoded as needed.

rows of the data set -> presized squares (a cache, or worker processes) -> augmented on the device
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from models.errors import DataError, LabradorError
from models.wording import counted
from training.data.decoding import Read, Squares, presized, squeezed
from training.hardware import cpu_cores, free_memory
from training.recipe import Recipe

_MEMORY_SHARE = 0.5  # of the free memory that a cache may take


class ImageSource(Protocol):
    """Where presized images come from; `place` names it in a word or two."""

    @property
    def place(self) -> str: ...

    def batches(self, rows_of_steps: Sequence[Tensor]) -> Iterator[Squares]:
        """The images of each step, in order; rows are indices `[N]` into the data set."""


@dataclass
class Cached:
    """All images, decoded once, in the memory of the GPU or of the machine."""

    pixels: Tensor
    shapes: Tensor

    @property
    def place(self) -> str:
        return "GPU memory" if self.pixels.is_cuda else "memory"

    def batches(self, rows_of_steps: Sequence[Tensor]) -> Iterator[Squares]:
        for rows in rows_of_steps:
            yield self.pixels[rows.to(self.pixels.device)], self.shapes[rows]


class Streamed:
    """Images decoded again each epoch, by worker processes."""

    def __init__(self, files: Sequence[Path], side_px: int, workers: int) -> None:
        self._files, self._side_px, self._workers = files, side_px, workers

    @property
    def place(self) -> str:
        if not self._workers:
            return "files, by no other process"
        return f"files, by {counted(self._workers, 'process', 'processes')}"

    def batches(self, rows_of_steps: Sequence[Tensor]) -> Iterator[Squares]:
        loader = DataLoader(
            _Files(self._files, self._side_px),
            batch_sampler=[rows.tolist() for rows in rows_of_steps],
            num_workers=self._workers,
            collate_fn=_unchanged,
            pin_memory=torch.cuda.is_available(),
        )
        for squares in loader:
            if isinstance(squares, LabradorError):
                raise squares
            yield squares


class _Files(Dataset[Squares]):
    def __init__(self, files: Sequence[Path], side_px: int) -> None:
        self._files, self._side_px = files, side_px

    def __getitems__(self, rows: list[int]) -> Squares | LabradorError:
        """An error is returned: raised in a worker, it would carry the worker's traceback."""
        try:
            return squeezed([self._files[row] for row in rows], self._side_px)
        except DataError as error:
            return error


def _unchanged(squares: Any) -> Any:
    return squares


def image_source(
    files: Sequence[Path], recipe: Recipe, device: torch.device, read: Read = Path.read_bytes
) -> ImageSource:
    """The images of `files`, in GPU memory, in memory, or streamed, by the recipe's `cache`.

    `auto` is the first of them that can hold the data set in half of its free memory.
    """
    side_px, cache = recipe.presize_px, recipe.cache
    needed = len(files) * side_px**2 * 3
    if cache == "auto" and device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        cache = "gpu" if needed < free * _MEMORY_SHARE else "auto"
    if cache == "auto":
        cache = "memory" if needed < free_memory() * _MEMORY_SHARE else "none"
    if cache == "none":
        return Streamed(files, side_px, cpu_cores() if recipe.workers is None else recipe.workers)
    pixels, shapes = presized(files, side_px, read)
    return Cached(pixels.to(device) if cache == "gpu" else pixels, shapes)
