"""Freed memory goes back to the system, also where glibc would keep it for later."""

import ctypes
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt's parameters, in glibc's malloc.h
_LARGE_BYTES = 4 * 2**20  # an RGB image of 1.4 megapixels
_KEPT_BYTES = 8 * 2**20  # at most, at the end of each of the allocator's heaps


def keep_little() -> None:
    """Keep little of what this process frees from now on.

    By itself glibc raises both limits with the largest block that was freed, to 32 and 64 MB: after
    some photos of 10 megapixels a server kept 220 MB. A large block is now mapped for itself and
    returned as soon as it is freed.
    """
    for parameter, size in ((_MMAP_THRESHOLD, _LARGE_BYTES), (_TRIM_THRESHOLD, _KEPT_BYTES)):
        _call("mallopt", parameter, size)


def give_back() -> None:
    """Return what is free now. glibc keeps it, 210 MB after a ResNet-50 was closed."""
    _call("malloc_trim", 0)


def _call(name: str, *arguments: int) -> None:
    function: Any = getattr(ctypes.CDLL(None), name, None)  # only glibc has both
    if function is not None:
        function(*arguments)
