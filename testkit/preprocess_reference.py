"""The reference for preprocessing in plain NumPy and float64, written from the specification.

It shares no code with `models.preprocess`. `python -m testkit.preprocess_reference` writes
`preprocess_reference.npz`: the expected pixels of every case, with which the tests
compare both.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FILE = Path(__file__).with_name("preprocess_reference.npz")

# EXIF 2.3, tag 274: the side of the upright image where the stored first row, and the stored
# first column, belong.
_SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


@dataclass(frozen=True)
class Case:
    """Stored samples `[h, w]` (grey) or `[h, w, bands]`, uint8 or uint16, and how to read them."""

    samples: NDArray[Any]
    kind: str  # grey, grey+alpha, rgb, rgba, cmyk
    orientation: int = 1
    size_px: int = 24
    crop_fraction: float = 0.875


def drawn(width: int, height: int, fine: bool = False) -> NDArray[np.uint8]:
    """An image `[height, width, 3]` that every rotation and flip changes.

    Ramps in red and green, slow waves in blue; `fine` adds stripes of three pixels, which only
    antialiased resampling smooths away. Only + - * / and rounding: the same on every machine.
    """
    u = ((np.arange(width) + 0.5) / width)[None, :]
    v = ((np.arange(height) + 0.5) / height)[:, None]
    red = 20 + 180 * u + 20 * v
    green = 230 - 190 * v * v + 0 * u
    blue = 70 + 120 * np.abs((2 * u + 3 * v) % 1 * 2 - 1)
    if fine:
        blue = blue + 55 * ((np.arange(width)[None, :] + 2 * np.arange(height)[:, None]) % 3 - 1)
    levels: NDArray[np.float64] = np.stack([red, green, blue], axis=-1)
    return np.rint(levels).astype(np.uint8)


def upright(samples: NDArray[Any], orientation: int) -> NDArray[Any]:
    row_side, column_side = _SIDES[orientation]
    if row_side in ("left", "right"):
        samples = samples.swapaxes(0, 1)
        row_side, column_side = column_side, row_side
    if row_side == "bottom":
        samples = samples[::-1]
    if column_side == "right":
        samples = samples[:, ::-1]
    return samples


def rgb(samples: NDArray[Any], kind: str) -> NDArray[np.float64]:
    """`[h, w, 3]` in levels from 0 to 255; alpha over white; CMYK as ink on white."""
    levels = samples.astype(np.float64)
    if samples.dtype == np.uint16:
        levels = levels / 257
    if levels.ndim == 2:
        levels = levels[:, :, None]
    if kind == "cmyk":
        return (255 - levels[:, :, :3]) * (255 - levels[:, :, 3:]) / 255
    bands = 3 if kind.startswith("rgb") else 1
    colour = np.broadcast_to(levels[:, :, :bands], (*levels.shape[:2], 3))
    if kind in ("grey+alpha", "rgba"):
        alpha = levels[:, :, -1:] / 255
        colour = colour * alpha + 255 * (1 - alpha)
    return colour


def weights(length: int, start: float, side: float, size: int) -> NDArray[np.float64]:
    """The triangle filter `[size, length]` along one axis; each row sums to 1."""
    scale = side / size
    centres = start + (np.arange(size) + 0.5) * scale
    distances = np.abs(np.arange(length) + 0.5 - centres[:, None])
    triangle = np.maximum(0, 1 - distances / max(scale, 1))
    return np.asarray(triangle / triangle.sum(axis=1, keepdims=True), np.float64)


def pixels(case: Case) -> NDArray[np.float64]:
    """The network's input `[S, S, 3]`, not rounded."""
    image = upright(rgb(case.samples, case.kind), case.orientation)
    height, width = image.shape[:2]
    side = min(height, width) * case.crop_fraction
    down = weights(height, (height - side) / 2, side, case.size_px)
    across = weights(width, (width - side) / 2, side, case.size_px)
    return np.asarray(np.einsum("yh,hwc,xw->yxc", down, image, across, optimize=True), np.float64)


def cases() -> dict[str, Case]:
    base = drawn(61, 45, fine=True)
    grey = base[:, :, 2]
    alpha = drawn(61, 45)[:, ::-1, 0]
    sixteen = (np.arange(45 * 61, dtype=np.int64) * 65535 // (45 * 61 - 1)).reshape(45, 61)
    found = {f"exif-{orientation}": Case(base, "rgb", orientation) for orientation in _SIDES}
    return found | {
        "even": Case(drawn(64, 48, fine=True), "rgb", crop_fraction=1.0),
        "odd-small-crop": Case(drawn(67, 91, fine=True), "rgb", size_px=17, crop_fraction=0.37),
        "enlarged": Case(drawn(13, 10), "rgb", size_px=25, crop_fraction=0.95),
        "one-pixel": Case(np.array([[[9, 130, 251]]], np.uint8), "rgb", size_px=8),
        "thin": Case(drawn(1, 2000), "rgb"),
        "flat": Case(drawn(3000, 4), "rgb", crop_fraction=1.0),
        "grey": Case(grey, "grey"),
        "one-bit": Case(np.where(alpha > 110, 255, 0).astype(np.uint8), "grey"),
        "sixteen-bit": Case(sixteen.astype(np.uint16), "grey", crop_fraction=1.0),
        "grey-alpha": Case(np.stack([grey, alpha], axis=-1), "grey+alpha"),
        "rgba": Case(np.concatenate([base, alpha[:, :, None]], axis=-1), "rgba"),
        "rgba-turned": Case(np.concatenate([base, alpha[:, :, None]], axis=-1), "rgba", 6),
        "cmyk": Case(np.concatenate([drawn(61, 45), alpha[:, :, None] // 3], axis=-1), "cmyk"),
        "large": Case(drawn(400, 320), "rgb"),
    }


if __name__ == "__main__":
    rounded = {name: np.rint(pixels(case)).astype(np.uint8) for name, case in cases().items()}
    np.savez_compressed(FILE, allow_pickle=False, **rounded)
    print(f"wrote {FILE.name}: {len(rounded)} cases, {FILE.stat().st_size} bytes")
