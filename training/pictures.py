"""Image files to arrays: hashed, presized for training, or exactly as they will be served."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from models.bundle import sha256
from models.errors import DataError, LabradorError
from models.manifest import Preprocess
from models.preprocess import decode, load

Result = TypeVar("Result")


def hashes(files: Sequence[Path]) -> list[str]:
    """sha256 of each file's bytes."""
    return _each(files, sha256, "hashing")


def presized(files: Sequence[Path], side_px: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Whole pictures squeezed into squares, decoded once for all epochs.

    Returns pictures uint8 `[N, side, side, 3]` and their true shapes float32 `[N, 2]`: width and
    height over the shorter of them. Augmentation stretches them back.
    """

    def squeeze(data: bytes) -> tuple[NDArray[np.uint8], tuple[float, float]]:
        picture = load(data, side_px)
        shorter = min(picture.size)
        square = picture.resize((side_px, side_px), Image.Resampling.BILINEAR)
        return np.asarray(square), (picture.width / shorter, picture.height / shorter)

    pictures = torch.empty((len(files), side_px, side_px, 3), dtype=torch.uint8)
    shapes = torch.empty((len(files), 2))
    for row, (square, shape) in enumerate(_each(files, squeeze, "decoding")):
        pictures[row] = torch.from_numpy(square.copy())
        shapes[row] = torch.tensor(shape)
    return pictures, shapes


def served(files: Sequence[Path], preprocess: Preprocess) -> torch.Tensor:
    """The pictures as serving will see them: uint8 `[N, S, S, 3]`."""
    arrays = _each(files, lambda data: decode(data, preprocess), "decoding")
    return torch.from_numpy(np.stack(arrays))


def _each(files: Sequence[Path], task: Callable[[bytes], Result], verb: str) -> list[Result]:
    """`task` on the bytes of each file, in order, on all cores; DataError names the bad ones."""

    def one(file: Path) -> Result | DataError:
        try:
            return task(file.read_bytes())
        except LabradorError as error:
            return DataError(f"{file}: {error}")
        except OSError as error:
            return DataError(f"{file}: {error.strerror}")

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(
            tqdm(pool.map(one, files), verb, len(files), unit=" images", leave=False, disable=None)
        )
    bad = [str(result) for result in results if isinstance(result, DataError)]
    if bad:
        raise DataError(f"{len(bad)} images cannot be used: {'; '.join(bad[:5])}")
    return [result for result in results if not isinstance(result, DataError)]
