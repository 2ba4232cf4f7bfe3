"""Write and read a bundle: one folder with the network, its manifest and its golden images.

A bundle is written to a temporary folder next to its destination, synced to disk and renamed; the
manifest is written last. So a folder that has its final name and a manifest is complete. Any user
can read what is written, whatever the umask, because the service often runs as another one.

`manifest.sha256` has the hash of the manifest, which has those of the other files; a signature
(`models/signing/signature.py`) is of all of them.
"""

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from models.errors import BundleError
from models.manifest import (
    MANIFEST_FILE,
    MANIFEST_HASH_FILE,
    MODEL_FILE,
    Manifest,
    first_problem,
)
from models.signing.signature import SIGNATURE_FILE, Signer, Trust

UNFINISHED_PREFIX = ".unfinished-"


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files all match their hashes. `files`: the exact bytes that were hashed."""

    path: Path
    manifest: Manifest
    files: Mapping[str, bytes]

    @property
    def model(self) -> bytes:
        return self.files[MODEL_FILE]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def hashes(files: Mapping[str, bytes]) -> dict[str, str]:
    """sha256 of each file, sorted by path: the `files` of a manifest."""
    return {path: sha256(data) for path, data in sorted(files.items())}


def write(
    path: Path, manifest: Manifest, files: Mapping[str, bytes], signer: Signer | None = None
) -> None:
    """Write the bundle to the folder `path`, which must not exist yet, completely or not at all.

    With a `signer` it is signed. Raises BundleError if `path` exists or the manifest's hashes do
    not match `files`.
    """
    if manifest.files != hashes(files):
        raise BundleError(f"{path}: the manifest does not list these files")
    _make_folder(path.parent)
    unfinished = Path(tempfile.mkdtemp(prefix=UNFINISHED_PREFIX, dir=path.parent))
    try:
        for name, data in files.items():
            _write_synced(unfinished / name, data)
        text = manifest_text(manifest)
        _write_synced(unfinished / MANIFEST_HASH_FILE, _hash_line(text))
        if signer is not None:
            model = f"{manifest.name}:{manifest.version}"
            signature = signer.sign(model, _signed_hashes(text, manifest))
            _write_synced(unfinished / SIGNATURE_FILE, signature)
        _write_synced(unfinished / MANIFEST_FILE, text)
        for folder, _, _ in os.walk(unfinished):
            sync_folder(Path(folder))
        unfinished.chmod(0o755)  # mkdtemp creates it as 0o700
        try:
            unfinished.rename(path)
        except OSError as error:
            if path.exists():
                raise BundleError(f"{path} already exists; a bundle is never changed") from error
            raise
        sync_folder(path.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def read(path: Path, trust: Trust | None = None) -> Bundle:
    """Read and check the bundle in the folder `path`.

    Raises BundleError, with one line that names the file, if the manifest is missing, corrupt or
    invalid, or if any file is missing, corrupt, not listed or a symbolic link; SignatureError if
    none of the keys in `trust` has signed it.
    """
    text, manifest = _read_manifest(path)
    if trust is not None:  # before any other file is opened
        trust.check(_signature(path), _signed_hashes(text, manifest), str(path))
    listed = {MANIFEST_FILE, MANIFEST_HASH_FILE, SIGNATURE_FILE, *manifest.files}
    for file in sorted(path.rglob("*")):
        if file.is_symlink():
            raise BundleError(f"{file} is a symbolic link; a bundle holds its own files")
        if not file.is_dir() and file.relative_to(path).as_posix() not in listed:
            raise BundleError(f"{file} is not listed in {MANIFEST_FILE}")
    files = {}
    for name, expected in manifest.files.items():
        try:
            files[name] = (path / name).read_bytes()
        except OSError as error:
            raise BundleError(f"{path / name} cannot be read: {error.strerror}") from error
        if sha256(files[name]) != expected:
            raise BundleError(f"{path / name} is corrupt: its sha256 is not the manifest's")
    return Bundle(path, manifest, files)


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of the bundle in the folder `path`, without reading the other files."""
    return _read_manifest(path)[1]


def checked_manifest(text: bytes, hash_line: bytes, where: str) -> Manifest:
    """The manifest with this text. hash_line: the content of `manifest.sha256`; where: the bundle.

    Raises BundleError if the text does not match it or is invalid.
    """
    file = f"{where}/{MANIFEST_FILE}"
    if hash_line != _hash_line(text):
        raise BundleError(f"{file} is corrupt: its sha256 is not that in {MANIFEST_HASH_FILE}")
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        raise BundleError(f"{file} is invalid: {first_problem(error)}") from error


def manifest_text(manifest: Manifest) -> bytes:
    """The content of `manifest.json`."""
    return manifest.model_dump_json(indent=2).encode()


def _read_manifest(path: Path) -> tuple[bytes, Manifest]:
    """The exact bytes that were hashed, and the manifest."""
    try:
        text = (path / MANIFEST_FILE).read_bytes()
        hash_line = (path / MANIFEST_HASH_FILE).read_bytes()
    except OSError as error:
        raise BundleError(f"{path} is not a bundle: {error.filename} cannot be read") from error
    return text, checked_manifest(text, hash_line, str(path))


def _signed_hashes(text: bytes, manifest: Manifest) -> dict[str, str]:
    """sha256 of each file that a signature is of; text: the manifest's."""
    own = {MANIFEST_FILE: text, MANIFEST_HASH_FILE: _hash_line(text)}
    return {**manifest.files, **hashes(own)}


def _signature(path: Path) -> bytes | None:
    """The bundle's signature, None if it has none. Raises BundleError if it cannot be read."""
    try:
        return (path / SIGNATURE_FILE).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BundleError(f"{error.filename} cannot be read: {error.strerror}") from error


def size_bytes(path: Path) -> int:
    """The size of the file `path`, or of all files in the folder `path`."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.lstat().st_size for file in files if file.is_file())


def write_atomically(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replace the file `path` with one that holds `data`: readers see either the old or the new."""
    handle, name = tempfile.mkstemp(prefix=UNFINISHED_PREFIX, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode)  # mkstemp creates it as 0o600
        os.replace(name, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None  # ENOSPC from write() names no file
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _hash_line(text: bytes) -> bytes:
    """The content of `manifest.sha256`, in the format of `sha256sum --check`."""
    return f"{sha256(text)}  {MANIFEST_FILE}\n".encode()


def _make_folder(path: Path) -> None:
    """Create the folder and the missing ones above it, readable by any user."""
    if path.is_dir():
        return
    _make_folder(path.parent)
    with contextlib.suppress(FileExistsError):  # another process made it
        path.mkdir()
        path.chmod(stat.S_IMODE(path.stat().st_mode) | 0o755)  # keeps what lets a group write


def _write_synced(path: Path, data: bytes) -> None:
    _make_folder(path.parent)
    with path.open("xb") as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
