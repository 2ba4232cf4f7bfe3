from pathlib import Path

import numpy as np
import pytest
import torch

from models.manifest import Preprocess, Task
from models.preprocess import decode
from testkit import image_sets
from training.inspection import transform_trace


@pytest.mark.parametrize("task", ["single", "multi"])
def test_each_step_has_its_real_shape_and_dtype(tmp_path: Path, task: Task) -> None:
    image_sets.photo(0, (200, 100)).save(tmp_path / "a.jpg", quality=90)
    steps = transform_trace.steps(tmp_path / "a.jpg", image_sets.recipe(image_size=64), task, 5)
    expected = [
        ("file", f"{(tmp_path / 'a.jpg').stat().st_size:,} bytes, JPEG"),
        ("decoded", "uint8 RGB 200 x 100, "),
        ("presized", "uint8 [1, 80, 80, 3], "),
        ("augmented", "float32 [1, 3, 64, 64], "),
        ("normalised", "float32 [1, 3, 64, 64], -"),
        ("logits", "float32 [1, 5], "),
        ("served", "uint8 [1, 64, 64, 3], "),
        ("normalised", "float32 [1, 3, 64, 64], -"),
        ("logits", "float32 [1, 5], "),
        ("scores", "float32 [1, 5], 0."),
    ]
    assert [name for name, _ in steps] == [name for name, _ in expected]
    for (_, outcome), (_, start) in zip(steps, expected, strict=True):
        assert outcome.startswith(start)
    assert "original shape 2.00 : 1.00" in steps[2][1]


def test_the_ranges_are_those_of_the_image(tmp_path: Path) -> None:
    image_sets.photo(0).save(tmp_path / "a.png")
    steps = transform_trace.steps(tmp_path / "a.png", image_sets.recipe(image_size=64), "single", 3)
    preprocess = Preprocess(image_size_px=64, crop_fraction=0.9)
    served = decode((tmp_path / "a.png").read_bytes(), preprocess)
    assert f", {served.min()} to {served.max()};" in steps[6][1]
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    normalised = (served / 255 - mean) / deviation
    assert steps[7][1].endswith(f", {normalised.min():.4g} to {normalised.max():.4g}")


def test_a_jpeg_that_is_decoded_at_a_reduced_size_is_visible(tmp_path: Path) -> None:
    image_sets.photo(0, (640, 320)).save(tmp_path / "a.jpg")
    steps = transform_trace.steps(tmp_path / "a.jpg", image_sets.recipe(image_size=64), "single", 3)
    assert steps[1][1].startswith("uint8 RGB 160 x 80, ")


def test_the_global_generator_is_left_alone(tmp_path: Path) -> None:
    image_sets.photo(0).save(tmp_path / "a.png")
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    transform_trace.steps(tmp_path / "a.png", image_sets.recipe(), "single", 3)
    assert torch.equal(torch.random.get_rng_state(), before)
