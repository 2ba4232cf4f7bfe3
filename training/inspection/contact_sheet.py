"""The contact sheet: a few images as the network sees them, served and augmented."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from training.data import decoding
from training.data.augment import augment, draw
from training.data.record import Record
from training.recipe import Recipe

COLUMNS = 8
_VIEWS = 4
_TILE_PX = 176  # at most; larger views are reduced
_GAP_PX = 4
_LINE_PX = 20


def choose(records: Sequence[Record]) -> list[Record]:
    """Up to COLUMNS records, of as many labels as possible, spread evenly over them."""
    seen: dict[tuple[str, ...], int] = {}
    ranked = []
    for record in records:
        rank = seen[record.labels] = seen.get(record.labels, -1) + 1
        ranked.append((rank, record.labels, record))
    ranked.sort(key=lambda entry: entry[:2])
    among = max(len(seen), min(COLUMNS, len(ranked)))
    count = min(COLUMNS, among)
    return [ranked[number * among // count][2] for number in range(count)]


def draw_sheet(root: Path, records: Sequence[Record], recipe: Recipe) -> Image.Image:
    """A column for each record: its labels, the image as served, and augmented views."""
    files = [root / record.file for record in records]
    squares, shapes = decoding.presized(files, recipe.presize_px)
    generator = torch.Generator().manual_seed(recipe.seed)
    rows = [
        (
            "as served, and as in validation",
            decoding.served(files, recipe.preprocess),
        )
    ]
    for number in range(_VIEWS):
        views = augment(squares, shapes, draw(len(files), generator), recipe)
        caption = f"as trained on: {_VIEWS} views, a new one each epoch" if number == 0 else ""
        rows.append((caption, views.round().byte().permute(0, 2, 3, 1)))
    return _lay_out([" ".join(r.labels) or "no label" for r in records], rows, recipe.image_size)


def _lay_out(
    captions: Sequence[str], rows: Sequence[tuple[str, torch.Tensor]], size_px: int
) -> Image.Image:
    """The sheet; rows: a caption and images uint8 `[N, S, S, 3]` each."""
    tile = min(size_px, _TILE_PX)
    step = tile + _GAP_PX
    height = sum(step + (_LINE_PX if caption else 0) for caption, _ in rows) + _LINE_PX
    sheet = Image.new("RGB", (len(captions) * step + _GAP_PX, height), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for column, caption in enumerate(captions):
        pen.text((column * step + _GAP_PX, 2), _shorten(caption, font, tile), "black", font)
    top = _LINE_PX
    for caption, images in rows:
        if caption:
            pen.text((_GAP_PX, top + 2), caption, "dimgray", font)
            top += _LINE_PX
        for column, pixels in enumerate(images.numpy()):
            sheet.paste(_tile(pixels, tile), (column * step + _GAP_PX, top))
        top += step
    return sheet


def _tile(pixels: NDArray[np.uint8], side_px: int) -> Image.Image:
    image = Image.fromarray(pixels)
    return image if image.width == side_px else image.resize((side_px, side_px))


def _shorten(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width_px: int) -> str:
    shown = text
    while font.getlength(shown) > width_px:
        text = text[:-1]
        shown = f"{text}…"
    return shown
