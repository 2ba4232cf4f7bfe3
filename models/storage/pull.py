"""Pulls a version from an object store into the cache, and checks it on the way.

It is pulled into a temporary folder, which is renamed once every object has the sha256 that the
manifest says: what has its final name is whole.
"""

import hashlib
import re
import shutil
import tempfile
from pathlib import Path

from models import bundle
from models.bundle import UNFINISHED_PREFIX, Bundle
from models.errors import BundleError, SignatureError
from models.manifest import MANIFEST_FILE, MANIFEST_HASH_FILE, Manifest
from models.signing.signature import SIGNATURE_FILE, Trust
from models.storage.cache import Cache
from models.storage.objects import Objects

_HASH_LINE = re.compile(rb"([0-9a-f]{64})  manifest\.json\n")


def read(objects: Objects, cache: Cache, folder: str, trust: Trust | None) -> Bundle:
    """The version below `folder`, from the cache, or pulled if it is not there or not whole.

    Raises BundleError as `bundle.read`, which names the object if one is missing or corrupt.
    """
    hash_line = _existing(objects, f"{folder}/{MANIFEST_HASH_FILE}")
    match = _HASH_LINE.fullmatch(hash_line)
    if match is None:
        raise BundleError(f"{objects.address(folder)}/{MANIFEST_HASH_FILE} has no sha256")
    with cache.held(match[1].decode()) as entry:
        path = entry / folder
        if path.is_dir():
            _pull_signature(objects, folder, path)
            try:
                return bundle.read(path, trust)
            except SignatureError:
                raise
            except BundleError:  # this machine's disk
                shutil.rmtree(path)
        cache.make_room(sum(one.size_bytes for one in objects.listing(folder)))
        _pull(objects, folder, hash_line, path)
        return bundle.read(path, trust)


def manifest(objects: Objects, folder: str) -> Manifest:
    """The manifest of the version below `folder`. Raises BundleError as `bundle.read_manifest`."""
    text = _existing(objects, f"{folder}/{MANIFEST_FILE}")
    hash_line = _existing(objects, f"{folder}/{MANIFEST_HASH_FILE}")
    return bundle.checked_manifest(text, hash_line, objects.address(folder))


def _pull(objects: Objects, folder: str, hash_line: bytes, path: Path) -> None:
    """Pull the version into the folder `path`, completely or not at all."""
    path.parent.mkdir(exist_ok=True)
    for left in path.parent.glob(f"{UNFINISHED_PREFIX}*"):  # by a process that was killed
        shutil.rmtree(left)
    text = _existing(objects, f"{folder}/{MANIFEST_FILE}")
    found = bundle.checked_manifest(text, hash_line, objects.address(folder))
    unfinished = Path(tempfile.mkdtemp(prefix=UNFINISHED_PREFIX, dir=path.parent))
    try:
        for file, sha256 in found.files.items():
            _pull_file(objects, f"{folder}/{file}", unfinished / file, sha256)
        _pull_signature(objects, folder, unfinished)
        (unfinished / MANIFEST_HASH_FILE).write_bytes(hash_line)
        (unfinished / MANIFEST_FILE).write_bytes(text)
        unfinished.rename(path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _pull_file(objects: Objects, source: str, file: Path, sha256: str) -> None:
    found = hashlib.sha256()
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with file.open("wb") as target:
            for chunk in objects.chunks(source):
                found.update(chunk)
                target.write(chunk)
    except FileNotFoundError as error:
        raise BundleError(f"{objects.address(source)} is missing") from error
    if found.hexdigest() != sha256:
        raise BundleError(f"{objects.address(source)} is corrupt: its sha256 is not the manifest's")


def _pull_signature(objects: Objects, folder: str, path: Path) -> None:
    """The one that the version has now: it may have been signed again, by another key."""
    found = objects.get(f"{folder}/{SIGNATURE_FILE}")
    if found is None:
        (path / SIGNATURE_FILE).unlink(missing_ok=True)
    else:
        (path / SIGNATURE_FILE).write_bytes(found.data)


def _existing(objects: Objects, path: str) -> bytes:
    found = objects.get(path)
    if found is None:
        raise BundleError(f"{objects.address(path)} is missing")
    return found.data
