import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy.fft import dctn

from testkit.image_sets import photo
from training.data.near_duplicates import DISTANCE
from training.data.perceptual_hash import perceptual_hash


def distance(first: Image.Image, second: Image.Image) -> int:
    hashes = perceptual_hash(first), perceptual_hash(second)
    assert hashes[0] is not None and hashes[1] is not None
    return (hashes[0] ^ hashes[1]).bit_count()


def again(image: Image.Image, quality: int = 95) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


@pytest.mark.parametrize("seed", range(5))
def test_the_hash_is_the_signs_of_the_lowest_frequencies_about_their_median(seed: int) -> None:
    """Against SciPy's transform in floating point, which cannot decide ties."""
    image = photo(seed)
    grey = image.convert("L").resize((32, 32), Image.Resampling.BILINEAR)
    waves = dctn(np.asarray(grey, np.float64), norm="ortho")[:8, :8].ravel()[1:]
    bits = "".join("01"[int(wave > np.median(waves))] for wave in waves)
    assert perceptual_hash(image) == int(bits + "0", 2)


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.resize((p.width // 2, p.height // 2), Image.Resampling.LANCZOS),
        lambda p: p.resize((p.width * 2, p.height * 2)),
        lambda p: again(p, quality=60),
        lambda p: ImageEnhance.Brightness(p).enhance(0.9),
        lambda p: ImageEnhance.Brightness(p).enhance(1.1),
        lambda p: p.convert("L"),
        lambda p: p.crop((2, 2, p.width - 2, p.height - 2)),
    ],
)
def test_nearly_the_same_image_has_nearly_the_same_hash(
    change: Callable[[Image.Image], Image.Image],
) -> None:
    for seed in range(10):
        image = photo(seed, (240, 180))
        assert distance(image, change(image)) <= DISTANCE


def test_different_images_have_different_hashes() -> None:
    images = [photo(seed) for seed in range(40)]
    distances = [
        distance(first, second) for number, first in enumerate(images) for second in images[:number]
    ]
    assert min(distances) > 2 * DISTANCE
    assert np.mean(distances) == pytest.approx(31.5, abs=1)


@pytest.mark.parametrize("kind", ["flat", "noise", "halves", "ramp"])
def test_an_image_too_plain_to_identify_has_no_hash(kind: str) -> None:
    row = np.arange(96)
    pixels = {
        "flat": np.full((72, 96), 90),
        "noise": np.random.default_rng(0).normal(120, 8, (72, 96)),
        "halves": np.tile(row // 48 * 200, (72, 1)),
        "ramp": np.tile(row * 2, (72, 1)),
    }[kind]
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    assert perceptual_hash(again(image)) is None
