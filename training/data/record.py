"""The record of one image, from reading DATA to the bundle."""

from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

Side = Literal["train", "valid"]
_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}


@dataclass(frozen=True)
class Scan:
    """What a file is. What could not be found is None; `error` says why it cannot be used, if so.

    perceptual: as `perceptual_hash` makes it; None for a picture too plain to be told by it.
    """

    size_bytes: int | None = None
    format: str | None = None  # JPEG, PNG or WEBP, by content
    width_px: int | None = None  # as stored, before the turn
    height_px: int | None = None
    mode: str | None = None
    turn: int = 1  # EXIF orientation, 1 to 8; 1 is upright
    perceptual: int | None = None
    error: str | None = None


@dataclass(frozen=True)
class Record:
    """One image of DATA; what is not known yet has its default.

    file: its path below the data's root. labels: sorted. side: of an official split, then of the
    split. sha256: of its bytes, in hexadecimal. group: images with the same one are copies or
    near-duplicates of each other.
    """

    file: str
    labels: tuple[str, ...]
    side: Side | None = None
    sha256: str = ""
    scan: Scan = Scan()
    group: int = -1

    @property
    def extension_lies(self) -> bool:
        """The name says another format than the content."""
        named = _FORMATS.get(PurePath(self.file).suffix.lower(), self.scan.format)
        return self.scan.format is not None and self.scan.format != named
