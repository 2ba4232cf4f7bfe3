"""The record of one image, from reading DATA to the bundle."""

from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

Side = Literal["train", "valid", "test"]
FORMATS = {  # by the extension; a file's content need not agree
    ".avif": "AVIF",
    ".heic": "HEIC",
    ".heif": "HEIC",
    ".jpeg": "JPEG",
    ".jpg": "JPEG",
    ".png": "PNG",
    ".webp": "WebP",
}


@dataclass(frozen=True)
class Scan:
    """What is known of a file; None where unknown. error: why it cannot be used, if it cannot.

    perceptual: its `perceptual_hash`; None for an image that is too plain for one.
    """

    size_bytes: int | None = None
    format: str | None = None  # one of TRAINING_FORMATS, by content
    width_px: int | None = None  # as stored, before the EXIF orientation is applied
    height_px: int | None = None
    mode: str | None = None
    orientation: int = 1  # of EXIF, 1 to 8; 1 is upright
    perceptual: int | None = None
    error: str | None = None


@dataclass(frozen=True)
class Record:
    """One image of DATA; a field that is not known yet has its default.

    file: its path relative to the data's root. labels: sorted. side: of an official split at
    first, then of the split, which has no test. sha256: of its bytes, in hexadecimal. group:
    images with the same number are copies or near-duplicates of each other. source: which DATA it
    is from, counted from 0. guess: of a captured image, the likeliest labels with their scores.
    """

    file: str
    labels: tuple[str, ...]
    side: Side | None = None
    sha256: str = ""
    scan: Scan = Scan()
    group: int = -1
    source: int = 0
    guess: tuple[tuple[str, float], ...] = ()

    @property
    def extension_is_wrong(self) -> bool:
        """Whether the extension is that of another format than the content's."""
        named = FORMATS.get(PurePath(self.file).suffix.lower(), self.scan.format)
        return self.scan.format is not None and self.scan.format != named
