from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from testkit import image_sets
from training.data.augment import augment, draw

STILL = {"flip": 0, "rotation": 0, "scale": 1, "warp": 0, "light": 0}
SIDE = 64


def noise(count: int = 4, side: int = SIDE, seed: int = 0) -> Tensor:
    """uint8 `[N, side, side, 3]`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=generator)


def smooth(count: int = 1) -> Tensor:
    """The same colour gradient each time: resampling hardly blurs it."""
    y, x = np.mgrid[:SIDE, :SIDE] / (SIDE - 1)
    image = np.stack([50 + 150 * x, 50 + 150 * y, 125 + 50 * (x - y)], -1)
    return torch.from_numpy(image.round().astype(np.uint8)).expand(count, -1, -1, -1)


def view(images: Tensor, shapes: Any = None, seed: int = 0, **changes: Any) -> Tensor:
    recipe = image_sets.recipe(image_size=SIDE, **(STILL | changes))
    generator = torch.Generator().manual_seed(seed)
    shapes = torch.ones(len(images), 2) if shapes is None else torch.tensor(shapes)
    return augment(images, shapes, draw(len(images), generator), recipe)


def upright(images: Tensor) -> Tensor:
    """Images as an augmentation of strength 0 returns them: float `[N, 3, side, side]`."""
    return images.permute(0, 3, 1, 2).float()


def test_with_every_strength_at_zero_an_image_is_unchanged() -> None:
    images = noise()
    for seed in range(3):
        views = view(images, seed=seed)
        assert (views.dtype, views.shape) == (torch.float32, (4, 3, SIDE, SIDE))
        torch.testing.assert_close(views, upright(images), rtol=0, atol=0.02)


def test_a_larger_image_is_resampled_whole() -> None:
    large = torch.nn.functional.interpolate(
        upright(smooth()), scale_factor=1.25, mode="bilinear", align_corners=False
    )
    images = view(large.round().byte().permute(0, 2, 3, 1))
    torch.testing.assert_close(images, upright(smooth()), rtol=0, atol=3)


def test_flip_mirrors_that_fraction_of_the_images() -> None:
    images = noise()
    mirrored = upright(images).flip(3)
    torch.testing.assert_close(view(images, flip=1), mirrored, rtol=0, atol=0.02)
    images = view(noise(1).expand(400, -1, -1, -1), flip=0.25)
    flipped = (images - upright(noise(1))).abs().amax((1, 2, 3)) > 1
    assert 60 <= flipped.sum() <= 140
    torch.testing.assert_close(
        images[flipped],
        upright(noise(1)).flip(3).expand(int(flipped.sum()), -1, -1, -1),
        rtol=0,
        atol=0.02,
    )


@pytest.mark.parametrize(
    "changes", [{"rotation": 20}, {"scale": 0.5}, {"warp": 0.3}, {"light": 0.3}, {"flip": 0.5}]
)
def test_each_strength_changes_the_images_and_each_image_differently(
    changes: dict[str, Any],
) -> None:
    images = view(noise(1).expand(12, -1, -1, -1), **changes)
    changed = (images - upright(noise(1))).abs().amax((1, 2, 3)) > 1
    assert changed.sum() >= 3
    different = torch.unique(images.round(), dim=0)
    assert len(different) == (2 if "flip" in changes else 12)


def test_the_draws_are_those_of_the_generator() -> None:
    strengths = {"flip": 0.5, "rotation": 10, "scale": 0.5, "warp": 0.1, "light": 0.2}
    first, again, other = (view(noise(), seed=seed, **strengths) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    view(noise(), flip=0.5, rotation=10, scale=0.5, warp=0.1, light=0.2)
    assert torch.equal(torch.rand(1), expected)


def test_images_stay_within_the_range_of_pixels() -> None:
    black_and_white = (noise(16) > 127).to(torch.uint8) * 255
    images = view(black_and_white, flip=0.5, rotation=180, scale=0.1, warp=0.5, light=0.9)
    assert images.isfinite().all()
    assert images.min() == 0
    assert images.max() == 255


def test_beyond_its_edges_an_image_is_reflected() -> None:
    """A white image stays white however far it is rotated."""
    white = torch.full((8, SIDE, SIDE, 3), 255, dtype=torch.uint8)
    assert view(white, rotation=180, warp=0.5).min() > 254.9


def disc(width: int, height: int) -> Tensor:
    """A disc in the middle of an image, squeezed into a square as images are cached."""
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    x, y = (x / SIDE - 0.5) * width, (y / SIDE - 0.5) * height
    inside = np.hypot(x, y) < 0.3 * min(width, height)
    return torch.from_numpy(np.repeat(inside[None, :, :, None] * 255, 3, 3).astype(np.uint8))


def extent(image: Tensor) -> tuple[float, float]:
    """Spread of the white in x and y; a disc of radius r has r / 2."""
    weights = image[0] / image[0].sum()
    at = torch.arange(len(weights)) + 0.5
    spreads = []
    for axis in (0, 1):
        along = weights.sum(axis)
        centre = (along * at).sum()
        spreads.append(float(((at - centre) ** 2 * along).sum().sqrt()))
    return spreads[0], spreads[1]


SHAPES = [((80, 40), (2.0, 1.0)), ((40, 100), (1.0, 2.5)), ((50, 50), (1.0, 1.0))]


@pytest.mark.parametrize(("size", "shape"), SHAPES)
@pytest.mark.parametrize("rotation", [0, 180])
def test_a_disc_stays_a_disc_whatever_the_image_s_shape(
    size: tuple[int, int], shape: tuple[float, float], rotation: float
) -> None:
    """The crop is as wide as the shorter side: a disc of 0.3 of it is 0.3 of the output."""
    middling = 0
    for seed in range(60):
        image = view(disc(*size), [shape], seed, rotation=rotation)[0]
        edges = image[0, [0, -1]].sum() + image[0, :, [0, -1]].sum()
        if edges == 0:  # otherwise the disc is cut, or seen twice
            middling += 1
            assert extent(image) == pytest.approx((0.15 * SIDE, 0.15 * SIDE), rel=0.04)
    assert middling >= 5


def test_crops_lie_anywhere_in_an_image_that_is_not_square() -> None:
    """Of an image twice as wide as high, whose colours encode the position."""
    left_edges = []
    ramp = smooth()
    for seed in range(200):
        image = view(ramp, [(2.0, 1.0)], seed)[0]
        across = (image[0, :, -1] - image[0, :, 0]).mean()
        assert across == pytest.approx(75, abs=3)  # half of the width
        assert image[1].diff(dim=1).abs().max() < 2  # red grows to the right, green downwards
        left_edges.append(float(image[0, :, 0].mean()))
    assert min(left_edges) < 55
    assert max(left_edges) > 120
    assert np.mean(left_edges) == pytest.approx(87.5, abs=4)


def test_a_crop_keeps_its_fraction_of_the_area_and_is_nearly_square() -> None:
    ramp = smooth(300)
    images = view(ramp, scale=0.3)
    width = (images[:, 0, :, -1] - images[:, 0, :, 0]).mean(1) / 150 * SIDE / (SIDE - 1)
    height = (images[:, 1, -1] - images[:, 1, 0]).mean(1) / 150 * SIDE / (SIDE - 1)
    area, stretch = width * height, (width / height).log().abs().exp()
    assert area.min() > 0.28
    assert area.max() < 1.05
    assert area.mean() == pytest.approx(0.65, abs=0.04)
    assert stretch.max() < (4 / 3) ** 0.5 + 0.05
    assert stretch.max() > 1.1
    assert max(width.max(), height.max()) < 1.03


def angle_of(image: Tensor) -> float:
    """How far the gradient of red is rotated, degrees."""
    right = image[0].diff(dim=1)[1:-1, 1:-1].median()
    down = image[0].diff(dim=0)[1:-1, 1:-1].median()
    return float(torch.rad2deg(torch.atan2(down, right)))


def test_rotations_reach_the_recipe_s_limit_both_ways() -> None:
    angles = [angle_of(image) for image in view(smooth(300), rotation=20)]
    assert -20.5 < min(angles) < -17
    assert 17 < max(angles) < 20.5


def test_the_perspective_keeps_the_middle_and_bends_parallels() -> None:
    images = view(smooth(50), warp=0.5)
    middle = images[:, :, SIDE // 2 - 1 : SIDE // 2 + 1, SIDE // 2 - 1 : SIDE // 2 + 1]
    torch.testing.assert_close(
        middle.mean((2, 3)), torch.tensor([[125.0, 125, 125]]).expand(50, 3), rtol=0, atol=2
    )
    top = images[:, 0, 0, 40] - images[:, 0, 0, 24]
    bottom = images[:, 0, -1, 40] - images[:, 0, -1, 24]
    assert (top - bottom).abs().max() > 5


def test_light_changes_brightness_and_contrast_by_its_strength() -> None:
    """Two greys show both: their mean is shifted, their difference is scaled."""
    greys = torch.full((400, SIDE, SIDE, 3), 100, dtype=torch.uint8)
    greys[:, :, SIDE // 2 :] = 155
    images = view(greys, light=0.2)
    low, high = images[:, 0, 0, 0], images[:, 0, 0, -1]
    contrast, brightness = (high - low) / 55, ((high + low) / 2 - 127.5) / 127.5
    for factor, middle in ((contrast, 1.0), (brightness, 0.0)):
        assert middle - 0.201 < factor.min() < middle - 0.18
        assert middle + 0.18 < factor.max() < middle + 0.201
    assert abs(np.corrcoef(contrast, brightness)[0, 1]) < 0.2
