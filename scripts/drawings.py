"""Draws data sets, shapes on busy backgrounds, for the demo and the tests.

python -m scripts.drawings FOLDER
"""

import csv
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("circle", "cross", "ring", "square", "star", "triangle")
_OVERSAMPLING = 2  # drawn larger and scaled down, for smooth edges


def single_label(folder: Path, images_per_shape: int, seed: int) -> None:
    """One folder per shape, with images of it."""
    random = np.random.default_rng(seed)
    for shape in SHAPES:
        (folder / shape).mkdir(parents=True, exist_ok=True)
        for number in range(images_per_shape):
            draw([shape], random).save(folder / shape / f"{number:04}.jpg", quality=90)


def multi_label(folder: Path, images: int, seed: int) -> None:
    """Images of none to three different shapes, and `labels.csv` (fname, labels)."""
    random = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["fname", "labels"])
        for number in range(images):
            count = random.choice(4, p=[0.1, 0.3, 0.3, 0.3])
            shapes = sorted(random.choice(SHAPES, count, replace=False).tolist())
            draw(shapes, random).save(folder / "images" / f"{number:04}.jpg", quality=90)
            writer.writerow([f"{number:04}.jpg", " ".join(shapes)])


def draw(shapes: Sequence[str], random: np.random.Generator) -> Image.Image:
    """An image of 96 × 96 to 104 × 96 pixels with up to four shapes: one large, or in quarters."""
    width, height = int(random.integers(96, 105)) * _OVERSAMPLING, 96 * _OVERSAMPLING
    image = _background(width, height, random)
    canvas = ImageDraw.Draw(image)
    across = 1 if len(shapes) == 1 else 2
    room_x, room_y = width / across, height / across
    for shape, place in zip(shapes, random.permutation(across**2), strict=False):
        radius = min(room_x, room_y) * random.uniform(0.36, 0.46)
        x = room_x * (place % across) + random.uniform(radius, room_x - radius)
        y = room_y * (place // across) + random.uniform(radius, room_y - radius)
        angle = random.uniform(0, 2 * math.pi)
        _shape(canvas, shape, (x, y), radius, angle, _colour(random, 0, 256))
    return image.resize((width // _OVERSAMPLING, height // _OVERSAMPLING), Image.Resampling.BOX)


def _background(width: int, height: int, random: np.random.Generator) -> Image.Image:
    """Soft patches of colour with thin lines across."""
    patches = random.integers(64, 192, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC)
    canvas = ImageDraw.Draw(image)
    for _ in range(8):
        (x0, y0), (x1, y1) = random.uniform(0, 1, (2, 2)) * (width, height)
        canvas.line((x0, y0, x1, y1), _colour(random, 64, 192), int(random.integers(1, 4)))
    return image


def _colour(random: np.random.Generator, low: int, high: int) -> tuple[int, int, int]:
    red, green, blue = random.integers(low, high, 3).tolist()
    return red, green, blue


def _shape(
    canvas: ImageDraw.ImageDraw,
    shape: str,
    centre: tuple[float, float],
    radius: float,
    angle: float,
    colour: tuple[int, int, int],
) -> None:
    """One outlined shape inside the circle of `radius` around `centre`, rotated by `angle`."""
    x, y = centre
    line = 2 * _OVERSAMPLING
    edge = (255, 255, 255) if sum(colour) < 384 else (0, 0, 0)
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape == "circle":
        canvas.ellipse(box, colour, edge, line)
    elif shape == "ring":
        canvas.ellipse(box, None, edge, int(radius / 2.5))
        inside = (box[0] + line, box[1] + line, box[2] - line, box[3] - line)
        canvas.ellipse(inside, None, colour, int(radius / 2.5) - 2 * line)
    else:
        corners = [
            (x + radius * r * math.cos(angle + a), y + radius * r * math.sin(angle + a))
            for r, a in _CORNERS[shape]
        ]
        canvas.polygon(corners, colour, edge, line)


def _alternating(points: int, inner: float) -> list[tuple[float, float]]:
    """Corners (radius, angle) of a star, alternating between radius 1 and `inner`."""
    return [
        (inner if corner % 2 else 1.0, math.pi * corner / points) for corner in range(2 * points)
    ]


def _regular(corners: int) -> list[tuple[float, float]]:
    return [(1.0, 2 * math.pi * corner / corners) for corner in range(corners)]


_ARM = 0.18  # half the width of a cross's arm: an angle at the rim (radians), a share of the radius
_CORNERS: dict[str, list[tuple[float, float]]] = {
    "triangle": _regular(3),
    "square": _regular(4),
    "star": _alternating(5, 0.4),
    "cross": [
        corner
        for arm in range(4)
        for corner in (
            (1.0, arm * math.pi / 2 - _ARM),
            (1.0, arm * math.pi / 2 + _ARM),
            (math.sqrt(2) * math.sin(_ARM), arm * math.pi / 2 + math.pi / 4),
        )
    ],
}


if __name__ == "__main__":
    single_label(Path(sys.argv[1]) / "shapes", 200, seed=1)
    multi_label(Path(sys.argv[1]) / "scenes", 1200, seed=2)
