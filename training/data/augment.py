"""Augmentation on the device: one projective resampling per image, then brightness and contrast."""

import math

import torch
from torch import Tensor

from training.recipe import Recipe

_DRAWS = 10  # random numbers per view


def draw(count: int, generator: torch.Generator) -> Tensor:
    """The random numbers of `count` views: float32 `[10, N]`, uniform in [0, 1).

    On the CPU, so they are the same whatever the device.
    """
    return torch.rand(_DRAWS, count, generator=generator)


def augment(images: Tensor, shapes: Tensor, draws: Tensor, recipe: Recipe) -> Tensor:
    """One augmented view of each image.

    images: uint8 `[N, P, P, 3]`, squeezed into squares; shapes: float32 `[N, 2]`, their width and
    height over the shorter side; draws: from `draw`. Returns float32 `[N, 3, S, S]` in [0, 255];
    beyond its edges an image is reflected.
    """
    count, size = len(images), recipe.image_size
    matrices = _matrices_of(shapes.cpu(), draws, recipe).to(images.device, non_blocking=True)
    centres = (torch.arange(size, device=images.device) * 2 + 1) / size - 1
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], -1).view(1, -1, 3)  # homogeneous
    projected = points @ matrices.transpose(1, 2)
    grid = (projected[..., :2] / projected[..., 2:]).view(count, size, size, 2)
    views = torch.nn.functional.grid_sample(
        images.permute(0, 3, 1, 2).float(),
        grid,
        mode="bilinear",
        padding_mode="reflection",
        align_corners=False,
    )
    return _relight(views, draws[8:], recipe.light)


def _matrices_of(shapes: Tensor, draws: Tensor, recipe: Recipe) -> Tensor:
    """Matrices `[N, 3, 3]` from the output's [-1, 1]² to the image's: crop ∘ rotation ∘ warp.

    The crop's side is sqrt(U(scale, 1)) of the image's shorter side; it lies anywhere inside.
    """
    count = len(shapes)
    mirrored = draws[0] < recipe.flip
    area, aspect, left, top, rotation, *tilts = _between(draws[1:8], -1, 1)
    side = _between((area + 1) / 2, recipe.scale, 1).sqrt()
    stretch = (aspect * math.log(4 / 3) / 4).exp()  # width / height is its square, up to sqrt(4/3)
    stretch = stretch.clamp(side, 1 / side)
    width, height = side * stretch, side / stretch
    flip = torch.where(mirrored, -1.0, 1.0)
    angle = rotation * math.radians(recipe.rotation)
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros(count), torch.ones(count)
    warp = recipe.warp / 2
    warped = _matrices([one, zero, zero, zero, one, zero, *(tilt * warp for tilt in tilts), one])
    rotated = _matrices([flip * cos, -sin, zero, flip * sin, cos, zero, zero, zero, one])
    cropped = _matrices(
        [
            *(width / shapes[:, 0], zero, left * (1 - width / shapes[:, 0])),
            *(zero, height / shapes[:, 1], top * (1 - height / shapes[:, 1])),
            *(zero, zero, one),
        ]
    )
    return cropped @ rotated @ warped


def _between(draws: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * draws


def _matrices(entries: list[Tensor]) -> Tensor:
    return torch.stack(entries, 1).view(-1, 3, 3)


def _relight(images: Tensor, draws: Tensor, light: float) -> Tensor:
    """Scale the contrast by 1 ± light and shift the brightness by ± light of half the range."""
    strengths = _between(draws, -light, light).view(2, -1, 1, 1, 1)
    contrast, brightness = strengths.to(images.device, non_blocking=True)
    return images.sub(127.5).mul(1 + contrast).add(127.5 * (1 + brightness)).clamp(0, 255)
