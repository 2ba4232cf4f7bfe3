"""Records which files are opened, and which images are decoded."""

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from models import preprocess
from models.bundle import sha256

_listeners: list[list[Path]] = []
_hooks: list[object] = []


@contextmanager
def opened() -> Iterator[list[Path]]:
    """The files that this process opens in the context, in all threads, once for each time."""
    if not _hooks:
        sys.addaudithook(_hear)
        _hooks.append(_hear)  # for good: Python cannot remove an audit hook
    files: list[Path] = []
    _listeners.append(files)
    try:
        yield files
    finally:
        _listeners.pop()


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _listeners and not isinstance(arguments[0], int):
        file = Path(os.fsdecode(arguments[0]))
        for files in _listeners:
            files.append(file)


@contextmanager
def decoded() -> Iterator[Counter[tuple[str, float]]]:
    """How often `models.preprocess`, the only decoder, decodes each image in the context.

    By the sha256 of its bytes and the least pixels of its shorter side.
    """
    found: list[tuple[str, float]] = []
    decode = preprocess._decoded

    def counted(data: bytes, shorter_px: float, *limits: Any) -> Any:
        found.append((sha256(data), shorter_px))
        return decode(data, shorter_px, *limits)

    counts: Counter[tuple[str, float]] = Counter()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preprocess, "_decoded", counted)
        yield counts
    counts.update(found)
