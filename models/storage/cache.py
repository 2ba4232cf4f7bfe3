"""Versions pulled from a bucket, in a local folder, by the sha256 of their manifests.

`<root>/<sha256>/<name>/<version>/` is a bundle. The folder `<sha256>` is locked while a process
pulls or reads it, so workers pull a version once and nobody removes what another one reads.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from models import bundle
from models.cache_folder import cache_folder


def default_folder() -> Path:
    """`bundles` in $LABRADOR_CACHE or ~/.cache/labrador."""
    return cache_folder() / "bundles"


class Cache:
    """size_mb: MiB that its bundles may take together; the least recently used leave first."""

    def __init__(self, root: Path, size_mb: float) -> None:
        self._root = root
        self._size_bytes = size_mb * 2**20

    @contextmanager
    def held(self, key: str) -> Iterator[Path]:
        """The folder of an entry, made if need be, in which nobody else is until this is left."""
        path = self._root / key
        while True:
            path.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                if _is_still(path, handle):
                    os.utime(path)  # the last use
                    yield path
                    return
            finally:
                os.close(handle)  # and unlock

    def make_room(self, needed_bytes: float) -> None:
        """Remove the entries that were not used for longest, until this much more fits.

        What another process holds stays, so that more than the size may be taken for a while.
        """
        total = needed_bytes
        entries = []
        for path in self._root.glob("*/"):
            with suppress(FileNotFoundError):  # another process has removed it
                entries.append((path.stat().st_mtime, bundle.size_bytes(path), path))
                total += entries[-1][1]
        for _, size, path in sorted(entries):
            if total <= self._size_bytes:
                break
            if size and _remove(path):
                total -= size


def _remove(path: Path) -> bool:
    """Remove an entry, unless somebody holds it."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_still(path, handle):  # else another process has removed it, and maybe made it again
            shutil.rmtree(path)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True


def _is_still(path: Path, handle: int) -> bool:
    """Whether the folder that was opened is there: it may have been removed before the lock."""
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(handle))
    return False
