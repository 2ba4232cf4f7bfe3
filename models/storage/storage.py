"""What a store needs of the place that holds it: a folder (`models/storage/folder.py`) or the
objects below a URL (`models/storage/bucket.py`).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from models.bundle import Bundle
from models.errors import BundleError
from models.manifest import Manifest
from models.signing.signature import Signer, Trust

RELEASED_FILE = "RELEASED"
VERSION = re.compile(r"[1-9][0-9]{0,8}")

Tag = tuple[tuple[str, str], ...]
"""By what a conditional write knows an object: its ETag and, on Google Cloud, its generation."""

Make = Callable[[int], tuple[Manifest, dict[str, bytes]]]
"""The manifest and the files of the version with this number."""


class TakenError(BundleError):
    """Another process has taken the version's number meanwhile."""


@dataclass(frozen=True)
class Mark:
    """What RELEASED says; tag: by which a bucket knows whether it is still the same object."""

    text: str
    tag: Tag = ()


def overtaken(name: str, now: Mark | None) -> str:
    """Why a release is refused: the message."""
    model = f"{name}:{now.text:.20}" if now else f"no version of {name}"
    return f"{model} was released in the meantime"


class Storage(Protocol):
    """Names are valid; a version is complete once it has a manifest. Every method raises OSError if
    the place cannot be read or written.
    """

    def names(self) -> list[str]:
        """Names, valid or not, that have a complete version; in any order."""

    def versions(self, name: str) -> Mapping[int, bool]:
        """Each number that is taken -> whether that version is complete."""

    def has(self, name: str, version: int) -> bool:
        """Whether the version is complete."""

    def address(self, name: str, entry: int | str) -> str:
        """Where a version, or RELEASED, is: for messages."""

    def mark(self, name: str) -> Mark | None:
        """None if there is no RELEASED."""

    def set_mark(self, name: str, version: int, before: Mark | None) -> None:
        """Write RELEASED. Raises ReleaseError if it is no longer `before`."""

    def marked_s(self, name: str) -> float:
        """When RELEASED was last written, in seconds since 1970."""

    def path(self, name: str, version: int) -> Path:
        """A folder with the complete version, which may have to be pulled first."""

    def read(self, name: str, version: int, trust: Trust | None) -> Bundle:
        """As `bundle.read`."""

    def manifest(self, name: str, version: int) -> Manifest:
        """As `bundle.read_manifest`."""

    def size_bytes(self, name: str, version: int) -> int: ...

    def write(
        self, name: str, manifest: Manifest, files: Mapping[str, bytes], signer: Signer | None
    ) -> Path:
        """Write a version; a folder that has it. Raises TakenError if its number is taken."""

    def remove(self, name: str, version: int) -> None:
        """Remove a version that is complete and not released."""

    def unfinished(self, name: str | None, older_than_s: float) -> list[str]:
        """What interrupted writers left in `name`, or in all, below the root; sorted."""

    def unfinished_bytes(self, entry: str) -> int: ...

    def remove_unfinished(self, entry: str) -> None: ...
