"""Image files to arrays: presized for training, or exactly as they will be served."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from models import preprocess as decoder
from models.errors import DataError, LabradorError
from models.manifest import Preprocess
from models.preprocess import TRAINING_FORMATS
from models.wording import counted
from training import output
from training.hardware import cpu_cores

Value = TypeVar("Value")
Result = TypeVar("Result")
Read = Callable[[Path], bytes]
Squares = tuple[torch.Tensor, torch.Tensor]
"""Images uint8 `[N, P, P, 3]` and their shapes float32 `[N, 2]`, as `presized` returns them."""


def load(data: bytes, shorter_px: float) -> Image.Image:
    """As in `models.preprocess`, and from every format that training reads."""
    return decoder.load(data, shorter_px, formats=TRAINING_FORMATS)


def decode(data: bytes, preprocess: Preprocess) -> NDArray[np.uint8]:
    """As in `models.preprocess`, and from every format that training reads."""
    return decoder.decode(data, preprocess, formats=TRAINING_FORMATS)


def presized(files: Sequence[Path], side_px: int, read: Read = Path.read_bytes) -> Squares:
    """Whole images squeezed into squares, on all cores: decoded once for all epochs.

    Returns images uint8 `[N, side, side, 3]` and their original shapes float32 `[N, 2]`: width and
    height over the shorter of the two. Augmentation stretches them back.
    """
    squeeze = partial(_squeeze, side_px=side_px)
    return _stacked(decoded(files, squeeze, read), len(files), side_px)


def squeezed(files: Sequence[Path], side_px: int) -> Squares:
    """The same as `presized`, in this thread: for a worker process's part of the decoding."""
    squeeze = partial(_squeeze, side_px=side_px)
    squares = (_do(file, squeeze, Path.read_bytes) for file in files)
    return _stacked(_good(squares), len(files), side_px)


def served(
    files: Sequence[Path], preprocess: Preprocess, read: Read = Path.read_bytes
) -> torch.Tensor:
    """The images as serving will see them: uint8 `[N, S, S, 3]`."""
    side_px = preprocess.image_size_px
    images = torch.empty((len(files), side_px, side_px, 3), dtype=torch.uint8)
    for row, image in enumerate(decoded(files, lambda data: decode(data, preprocess), read)):
        images[row] = torch.from_numpy(image.copy())
    return images


def decoded(
    files: Sequence[Path], task: Callable[[bytes], Result], read: Read = Path.read_bytes
) -> Iterator[Result]:
    """`task` of each file's bytes, on all cores; a DataError at the end names the bad files."""
    return _good(on_all_cores(files, lambda file: _do(file, task, read), "decoding"))


def _squeeze(data: bytes, side_px: int) -> tuple[NDArray[np.uint8], tuple[float, float]]:
    image = load(data, side_px)
    shorter = min(image.size)
    square = image.resize((side_px, side_px), Image.Resampling.BILINEAR)
    return np.asarray(square), (image.width / shorter, image.height / shorter)


def _stacked(
    squares: Iterable[tuple[NDArray[np.uint8], tuple[float, float]]], count: int, side_px: int
) -> Squares:
    images = torch.empty((count, side_px, side_px, 3), dtype=torch.uint8)
    shapes = torch.empty((count, 2))
    for row, (square, shape) in enumerate(squares):
        images[row] = torch.from_numpy(square.copy())
        shapes[row] = torch.tensor(shape)
    return images, shapes


def on_all_cores(
    values: Sequence[Value], task: Callable[[Value], Result], verb: str
) -> Iterator[Result]:
    """`task` of each value, in order, with a progress bar."""
    with ThreadPoolExecutor(cpu_cores()) as pool:
        results = pool.map(task, values)
        yield from output.each(results, verb, "images", len(values))


def _do(file: Path, task: Callable[[bytes], Result], read: Read) -> Result | DataError:
    try:
        return task(read(file))
    except LabradorError as error:
        return DataError(f"{file}: {error}")
    except OSError as error:
        return DataError(f"{file}: {error.strerror}")


def _good(results: Iterable[Result | DataError]) -> Iterator[Result]:
    bad = []
    for result in results:
        if isinstance(result, DataError):
            bad.append(str(result))
        else:
            yield result
    if bad:
        raise DataError(f"{counted(len(bad), 'image')} cannot be used: {'; '.join(bad[:5])}")
