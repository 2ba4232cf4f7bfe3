"""The bytes of image files, kept from the scan to decoding as far as memory allows.

So each file is opened only once: the split is known only after all files have been scanned.
"""

import threading
from pathlib import Path

from training.hardware import free_memory

_MEMORY_SHARE = 0.25  # of the free memory; decoded images may take half of it


class Contents:
    """Reads files, and keeps their bytes for a second read while there is room."""

    def __init__(self, room_bytes: int | None = None) -> None:
        """room_bytes: most bytes to keep; by default a quarter of the free memory."""
        self._room = int(free_memory() * _MEMORY_SHARE) if room_bytes is None else room_bytes
        self._kept: dict[Path, bytes] = {}
        self._lock = threading.Lock()

    def read(self, file: Path) -> bytes:
        """The bytes of the file, kept if they fit. Raises OSError."""
        data = file.read_bytes()
        with self._lock:
            if file not in self._kept and len(data) <= self._room:
                self._room -= len(data)
                self._kept[file] = data
        return data

    def take(self, file: Path) -> bytes:
        """The bytes of the file, no longer kept; read again if they did not fit. Raises OSError."""
        with self._lock:
            data = self._kept.pop(file, None)
            if data is not None:
                self._room += len(data)
                return data
        return file.read_bytes()

    def clear(self) -> None:
        """Free what nobody took, such as images that are streamed."""
        with self._lock:
            self._room += sum(map(len, self._kept.values()))
            self._kept.clear()
