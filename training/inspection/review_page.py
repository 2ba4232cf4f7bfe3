"""`suspects.html`, `guesses.html`: a page, pictures included, to decide about each label by a key.

It writes two lists, as downloads: `corrections.csv` for `--correct`, and `quarantine.csv`.
"""

import base64
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from models.bundle import write_atomically
from training.data import corrections, decoding
from training.data.corrections import Correction
from training.data.record import Record

SHOWN = 500  # a page of 500 pictures has about 8 MB
_SIDE_PX = 256


@dataclass(frozen=True)
class Words:
    """What the page says: its title, which images come first, and the list of all of them."""

    title: str
    first: str
    file: str


def write(
    path: Path,
    words: Words,
    root: Path,
    records: Sequence[Record],
    found: Sequence[Correction],
    labels: Sequence[str],
    left_out: Mapping[str, str],
) -> None:
    """Write the page about the first SHOWN of `found`, which needs no other file, to `path`.

    left_out: what else the quarantine list has: file -> reason.
    """
    shown = found[:SHOWN]
    own = {record.file: record.labels for record in records}
    pictures = decoding.decoded([root / correction.file for correction in shown], _picture)
    content = {
        "columns": corrections.COLUMNS,
        "rows": [[c.file, c.given, c.suggested, f"{c.sure:.4f}"] for c in shown],
        "labels": labels,
        "quarantine": sorted(left_out.items()),
    }
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    cards: list[dict[str, Any]] = [
        {"correction": correction, "image": picture, "labels": own[correction.file]}
        for correction, picture in zip(shown, pictures, strict=True)
    ]
    environment = Environment(
        loader=PackageLoader("training.inspection"), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("review.html").render(
        words=words,
        cards=cards,
        found=len(found),
        labels=labels,
        content=content | {"key": f"labrador {digest}"},
    )
    write_atomically(path, page.encode(errors="backslashreplace"))


def _picture(data: bytes) -> str:
    """The whole image as a small JPEG, in base64."""
    image: Image.Image = decoding.load(data, _SIDE_PX)
    image.thumbnail((_SIDE_PX, _SIDE_PX))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode()
