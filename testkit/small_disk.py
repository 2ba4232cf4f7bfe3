"""A small file system in the place of a folder, which only one command sees."""

import subprocess
from pathlib import Path

import pytest

_APART = ["unshare", "--user", "--map-root-user", "--mount"]


def in_place_of(folder: Path, size: str) -> list[str]:
    """The beginning of the command's line; the rest of it follows. size: as mount's, 4m.

    Skips the test where only root may do this.
    """
    tried = subprocess.run([*_APART, "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"no user namespaces: {tried.stderr.strip()}")
    mount = f'mount -t tmpfs -o size={size} tmpfs {folder} && exec "$@"'
    return [*_APART, "sh", "-c", mount, "sh"]
