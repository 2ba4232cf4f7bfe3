"""The folder on this machine for what is downloaded, pulled or unpacked once."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """$LABRADOR_CACHE or ~/.cache/labrador."""
    return Path(os.environ.get("LABRADOR_CACHE") or Path.home() / ".cache" / "labrador")
