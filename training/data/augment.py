"""Augmentation on the device: one projective resample an image, then one step for light."""

import math

import torch
from torch import Tensor

from training.recipe import Recipe

_DRAWS = 10  # numbers that decide one view


def draw(count: int, generator: torch.Generator) -> Tensor:
    """What chance decides for `count` views: float32 `[10, N]`, uniform in [0, 1).

    On the CPU, so that it is the same for every device.
    """
    return torch.rand(_DRAWS, count, generator=generator)


def augment(pictures: Tensor, shapes: Tensor, draws: Tensor, recipe: Recipe) -> Tensor:
    """The view of each picture that its draws decide.

    pictures: uint8 `[N, P, P, 3]`, squeezed into squares; shapes: float32 `[N, 2]`, their width
    and height over the shorter; draws: as `draw` makes them. Returns float32 `[N, 3, S, S]` in
    [0, 255]; outside of the picture is its reflection.
    """
    count, size = len(pictures), recipe.image_size
    views = _views(shapes.cpu(), draws, recipe).to(pictures.device, non_blocking=True)
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
    return _relit(images, draws[8:], recipe.light)


def _views(shapes: Tensor, draws: Tensor, recipe: Recipe) -> Tensor:
    """Matrices `[N, 3, 3]` from the output's [-1, 1]² to the picture's: crop ∘ turn ∘ warp.

    A side of the crop is sqrt(U(scale, 1)) of the picture's shorter one, placed anywhere inside.
    """
    count = len(shapes)
    mirrored = draws[0] < recipe.flip
    share, squareness, left, top, turn, *tilts = _between(draws[1:8], -1, 1)
    side = _between((share + 1) / 2, recipe.scale, 1).sqrt()
    stretch = (squareness * math.log(4 / 3) / 4).exp()  # from the squarest, half-way to 4:3
    stretch = stretch.clamp(side, 1 / side)
    width, height = side * stretch, side / stretch
    flip = torch.where(mirrored, -1.0, 1.0)
    angle = turn * math.radians(recipe.rotation)
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros(count), torch.ones(count)
    warp = recipe.warp / 2
    warped = _matrices([one, zero, zero, zero, one, zero, *(tilt * warp for tilt in tilts), one])
    turned = _matrices([flip * cos, -sin, zero, flip * sin, cos, zero, zero, zero, one])
    cropped = _matrices(
        [
            *(width / shapes[:, 0], zero, left * (1 - width / shapes[:, 0])),
            *(zero, height / shapes[:, 1], top * (1 - height / shapes[:, 1])),
            *(zero, zero, one),
        ]
    )
    return cropped @ turned @ warped


def _between(draws: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * draws


def _matrices(entries: list[Tensor]) -> Tensor:
    return torch.stack(entries, 1).view(-1, 3, 3)


def _relit(images: Tensor, draws: Tensor, light: float) -> Tensor:
    """Contrast by a factor of 1 ± light, brightness by ± light of half the range."""
    strengths = _between(draws, -light, light).view(2, -1, 1, 1, 1)
    contrast, brightness = strengths.to(images.device, non_blocking=True)
    return images.sub(127.5).mul(1 + contrast).add(127.5 * (1 + brightness)).clamp(0, 255)
