"""Write and read a bundle: one folder with the network, its manifest and its golden images.

A bundle is written beside its place, synced to the disk and renamed; the manifest comes last.
So a folder with its right name and a manifest is whole.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from models.errors import BundleError
from models.manifest import MANIFEST_FILE, MODEL_FILE, Manifest

UNFINISHED_PREFIX = ".unfinished-"


@dataclass(frozen=True)
class Bundle:
    """A bundle whose every byte was checked. `files` are the very bytes that were hashed."""

    path: Path
    manifest: Manifest
    files: Mapping[str, bytes]

    @property
    def model(self) -> bytes:
        return self.files[MODEL_FILE]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def hashes(files: Mapping[str, bytes]) -> dict[str, str]:
    """sha256 of each file, sorted by path: a manifest's `files`."""
    return {path: sha256(data) for path, data in sorted(files.items())}


def write(path: Path, manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """Write the bundle to the folder `path`, which must not exist: all of it or nothing.

    Raises BundleError if `path` exists or the manifest's hashes are not those of `files`.
    """
    if manifest.files != hashes(files):
        raise BundleError(f"{path}: the manifest does not list these files")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=UNFINISHED_PREFIX, dir=path.parent))
    try:
        for name, data in files.items():
            _write_synced(unfinished / name, data)
        _write_synced(unfinished / MANIFEST_FILE, manifest.model_dump_json(indent=2).encode())
        for folder, _, _ in os.walk(unfinished):
            sync_folder(Path(folder))
        unfinished.chmod(0o755)  # mkdtemp makes it private
        try:
            unfinished.rename(path)
        except OSError as error:
            if path.exists():
                raise BundleError(f"{path} exists already; a bundle is never changed") from error
            raise
        sync_folder(path.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def read(path: Path) -> Bundle:
    """Read and check the bundle in the folder `path`.

    Raises BundleError, in one line that names the file, if the manifest is missing or invalid, or
    any file is missing, changed or not listed.
    """
    manifest = read_manifest(path)
    present = {p.relative_to(path).as_posix() for p in path.rglob("*") if not p.is_dir()}
    if strange := sorted(present - {MANIFEST_FILE} - set(manifest.files)):
        raise BundleError(f"{path / strange[0]} is not listed in {MANIFEST_FILE}")
    files = {}
    for name, expected in manifest.files.items():
        try:
            files[name] = (path / name).read_bytes()
        except OSError as error:
            raise BundleError(f"{path / name} cannot be read: {error.strerror}") from error
        if sha256(files[name]) != expected:
            raise BundleError(f"{path / name} was changed: its sha256 is not the manifest's")
    return Bundle(path, manifest, files)


def read_manifest(path: Path) -> Manifest:
    """The manifest of the bundle in the folder `path`, without reading the other files."""
    file = path / MANIFEST_FILE
    try:
        return Manifest.model_validate_json(file.read_bytes())
    except OSError as error:
        raise BundleError(f"{path} is no bundle: {file} cannot be read") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the text"
        raise BundleError(f"{file} is invalid: {where}: {first['msg']}") from error


def write_text_atomically(path: Path, text: str) -> None:
    """Replace the file `path` by one holding `text`: readers see the old one or the new one."""
    handle, name = tempfile.mkstemp(prefix=UNFINISHED_PREFIX, dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)  # mkstemp makes it private
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_synced(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
