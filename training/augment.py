"""Augmentation on the device: one projective resample an image, then one step for light."""

import math

import torch
from torch import Tensor

from training.recipe import Recipe


def augment(pictures: Tensor, shapes: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """A fresh random view of each picture.

    pictures: uint8 `[N, P, P, 3]`, squeezed into squares; shapes: float32 `[N, 2]`, their width
    and height over the shorter. generator: on the CPU, so that the draws are the same on every
    device. Returns float32 `[N, 3, S, S]` in [0, 255]; outside of the picture is its reflection.
    """
    count, size = len(pictures), recipe.image_size
    views = _views(shapes.cpu(), recipe, generator).to(pictures.device)
    centres = (torch.arange(size, device=pictures.device) * 2 + 1) / size - 1
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], -1).view(1, -1, 3)  # homogeneous
    projected = points @ views.transpose(1, 2)
    grid = (projected[..., :2] / projected[..., 2:]).view(count, size, size, 2)
    images = torch.nn.functional.grid_sample(
        pictures.permute(0, 3, 1, 2).float(),
        grid,
        mode="bilinear",
        padding_mode="reflection",
        align_corners=False,
    )
    return _relit(images, recipe.light, generator)


def _views(shapes: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Matrices `[N, 3, 3]` from the output's [-1, 1]² to the picture's: crop ∘ turn ∘ warp.

    A side of the crop is sqrt(U(scale, 1)) of the picture's shorter one, placed anywhere inside.
    """
    count = len(shapes)

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(count).uniform_(low, high, generator=generator)

    side = uniform(recipe.scale, 1).sqrt()
    stretch = uniform(-1, 1).mul(math.log(4 / 3) / 4).exp()  # from the squarest, half-way to 4:3
    stretch = stretch.clamp(side, 1 / side)
    width, height = side * stretch, side / stretch
    left, top = uniform(-1, 1), uniform(-1, 1)
    flip = torch.where(uniform(0, 1) < recipe.flip, -1.0, 1.0)
    angle = uniform(-1, 1) * math.radians(recipe.rotation)
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros(count), torch.ones(count)
    warp = recipe.warp / 2
    tilt = [uniform(-warp, warp), uniform(-warp, warp)]
    warped = _matrices([one, zero, zero, zero, one, zero, *tilt, one])
    turned = _matrices([flip * cos, -sin, zero, flip * sin, cos, zero, zero, zero, one])
    cropped = _matrices(
        [
            *(width / shapes[:, 0], zero, left * (1 - width / shapes[:, 0])),
            *(zero, height / shapes[:, 1], top * (1 - height / shapes[:, 1])),
            *(zero, zero, one),
        ]
    )
    return cropped @ turned @ warped


def _matrices(entries: list[Tensor]) -> Tensor:
    return torch.stack(entries, 1).view(-1, 3, 3)


def _relit(images: Tensor, light: float, generator: torch.Generator) -> Tensor:
    """Contrast by a factor of 1 ± light, brightness by ± light of half the range."""
    draws = torch.empty(2, len(images), 1, 1, 1).uniform_(-light, light, generator=generator)
    contrast, brightness = draws.to(images.device)
    return images.sub(127.5).mul(1 + contrast).add(127.5 * (1 + brightness)).clamp(0, 255)
