"""A store in a folder: `<root>/<name>/<version>/` and `<root>/<name>/RELEASED`."""

import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from models import bundle
from models.bundle import Bundle
from models.errors import BundleError, ReleaseError
from models.manifest import MANIFEST_FILE, Manifest
from models.signing.signature import Signer, Trust
from models.storage.storage import RELEASED_FILE, VERSION, Mark, TakenError, overtaken


@dataclass(frozen=True)
class Folder:
    """The storage of a `Store` whose root is a folder; see `models/storage/storage.py`."""

    root: Path

    def names(self) -> list[str]:
        found = [path.name for path in self.root.iterdir()] if self.root.is_dir() else []
        return [name for name in found if any(self.versions(name).values())]

    def versions(self, name: str) -> dict[int, bool]:
        folder = self.root / name
        paths = folder.iterdir() if folder.is_dir() else []
        numbers = [int(path.name) for path in paths if VERSION.fullmatch(path.name)]
        return {number: self.has(name, number) for number in numbers}

    def has(self, name: str, version: int) -> bool:
        return (self.path(name, version) / MANIFEST_FILE).is_file()

    def address(self, name: str, entry: int | str) -> str:
        return str(self.root / name / str(entry))

    def mark(self, name: str) -> Mark | None:
        file = self.root / name / RELEASED_FILE
        try:
            return Mark(file.read_text(encoding="utf-8", errors="replace").strip())
        except FileNotFoundError:
            return None

    def set_mark(self, name: str, version: int, before: Mark | None) -> None:
        """Of two at the very same moment the later one counts, and neither is told."""
        if (now := self.mark(name)) != before:
            raise ReleaseError(overtaken(name, now))
        file = self.root / name / RELEASED_FILE
        bundle.write_atomically(file, f"{version}\n".encode())
        if not self.has(name, version):  # removed since it was chosen
            if before is not None:
                bundle.write_atomically(file, f"{before.text}\n".encode())
            raise BundleError(f"{self.address(name, version)} was removed in the meantime")

    def marked_s(self, name: str) -> float:
        return (self.root / name / RELEASED_FILE).stat().st_mtime

    def path(self, name: str, version: int) -> Path:
        return self.root / name / str(version)

    def read(self, name: str, version: int, trust: Trust | None) -> Bundle:
        return bundle.read(self.path(name, version), trust)

    def manifest(self, name: str, version: int) -> Manifest:
        return bundle.read_manifest(self.path(name, version))

    def size_bytes(self, name: str, version: int) -> int:
        return bundle.size_bytes(self.path(name, version))

    def write(
        self, name: str, manifest: Manifest, files: Mapping[str, bytes], signer: Signer | None
    ) -> Path:
        path = self.path(name, manifest.version)
        try:
            bundle.write(path, manifest, files, signer)
        except BundleError as error:
            if path.exists():
                raise TakenError(str(error)) from error
            raise
        return path

    def remove(self, name: str, version: int) -> None:
        """It is gone at once, even if this is interrupted: its folder is renamed to an unfinished
        one first.
        """
        path = self.path(name, version)
        renamed = path.with_name(f"{bundle.UNFINISHED_PREFIX}{version}-{secrets.token_hex(4)}")
        path.rename(renamed)
        mark = self.mark(name)
        if mark is not None and mark.text == str(version):
            renamed.rename(path)
            raise BundleError(f"{name}:{version} was released in the meantime: it stays")
        self.remove_unfinished(renamed.relative_to(self.root).as_posix())

    def unfinished(self, name: str | None, older_than_s: float) -> list[str]:
        found = self.root.glob(f"{name or '*'}/{bundle.UNFINISHED_PREFIX}*")
        old = sorted(path for path in found if _age_s(path) > older_than_s)
        return [path.relative_to(self.root).as_posix() for path in old]

    def unfinished_bytes(self, entry: str) -> int:
        return bundle.size_bytes(self.root / entry)

    def remove_unfinished(self, entry: str) -> None:
        path = self.root / entry
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _age_s(path: Path) -> float:
    """Seconds since the file, or anything in the folder, was changed; 0 if it is gone."""
    try:
        return time.time() - max(p.lstat().st_mtime for p in (path, *path.rglob("*")))
    except FileNotFoundError:
        return 0
