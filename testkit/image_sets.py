"""Tiny data sets that a tiny network can learn: noise tinted in the labels' colours."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from training.recipe import Recipe

COLOURS = {"blue": (30, 50, 210), "green": (40, 190, 50), "red": (210, 40, 40)}
SIZE_PX = 32


def jpeg(labels: Sequence[str], random: np.random.Generator, size: tuple[int, int]) -> bytes:
    """Noise on grey, with a vertical stripe in the colour of each label. size: width, height."""
    width, height = size
    pixels = np.full((height, width, 3), 128.0)
    stripes = np.array_split(np.arange(width), max(len(labels), 1))
    for label, stripe in zip(labels, stripes, strict=False):
        pixels[:, stripe] = COLOURS[label]
    pixels += random.normal(0, 60, pixels.shape)
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def photo(seed: int, size: tuple[int, int] = (96, 72)) -> Image.Image:
    """Soft patches and fine grain, a different image for each seed. size: width, height."""
    random = np.random.default_rng(seed)
    patches = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    soft = Image.fromarray(patches).resize(size, Image.Resampling.BICUBIC)
    grain = random.normal(0, 6, (size[1], size[0], 3))
    return Image.fromarray((np.asarray(soft) + grain).clip(0, 255).astype(np.uint8))


def image(seed: int, labels: Sequence[str] = ("red",), size: tuple[int, int] = (40, 36)) -> bytes:
    """One image file, a different one for each seed."""
    return jpeg(labels, np.random.default_rng(seed), size)


def put(folder: Path, *files: str) -> Path:
    """Write a different image to each of the files in the folder, and return the folder."""
    for number, file in enumerate(files):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(image(number))
    return folder


def class_folders(folder: Path, images_per_label: int, seed: int = 0) -> Path:
    """One class folder per colour."""
    random = np.random.default_rng(seed)
    for label in COLOURS:
        (folder / label).mkdir(parents=True)
        for number in range(images_per_label):
            (folder / label / f"{number:03}.jpg").write_bytes(jpeg([label], random, (40, 36)))
    return folder


def table(folder: Path, images: int, seed: int = 0) -> Path:
    """A CSV and its `images/`, each with none to three of the colours; every fifth has none."""
    random = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(images):
        count = int(random.integers(1, 4)) if number % 5 else 0
        labels = sorted(random.choice(list(COLOURS), count, replace=False).tolist())
        (folder / "images" / f"{number:03}.jpg").write_bytes(jpeg(labels, random, (48, 36)))
        rows.append([f"{number:03}.jpg", " ".join(labels)])
    return write_csv(folder / "labels.csv", [["fname", "labels"], *rows])


def write_csv(file: Path, rows: Sequence[Sequence[str]]) -> Path:
    with file.open("w", encoding="utf-8", newline="") as text:
        csv.writer(text).writerows(rows)
    return file


def recipe(data: Path | str = "nowhere", **changes: Any) -> Recipe:
    """A recipe that runs in a second or two on tiny data."""
    quick: dict[str, Any] = {
        "data": str(data),
        "weights": "none",
        "device": "cpu",
        "dtype": "float32",  # bfloat16's rounding would differ between processors
        "image_size": SIZE_PX,
        "batch_size": 16,
        "freeze_epochs": 1,
        "epochs": 3,
        "crop_fraction": 0.9,
        "lr": "1e-2",
    }
    return Recipe.model_validate(quick | changes)
