"""What glibc keeps of freed memory, seen in the process's resident memory."""

import ctypes
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from PIL import Image

from serving import memory
from testkit import tiny_models
from testkit.odd_images import encoded
from testkit.servers import ROOT, post, serve

LIBRARY = ctypes.CDLL(None)
BLOCKS, BLOCK_BYTES = 1000, 64 * 2**10  # of a size that glibc doesn't map one by one
MB = 2**20
# Freeing 30 MB makes glibc take blocks of up to that size from its heap, where the small one that
# follows the next keeps it from being returned.
FREED = f"""
import ctypes, sys
from pathlib import Path
from serving import memory
library = ctypes.CDLL(None)
library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
def taken(size):
    block = library.malloc(size)
    ctypes.memset(block, 1, size)
    return block
def resident():
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])
if sys.argv[1] == "keep little":
    memory.keep_little()
library.free(taken({30 * MB}))
large, small = taken({20 * MB}), taken(1000)
before = resident()
library.free(large)
print(before - resident())
"""
pytestmark = pytest.mark.skipif(not hasattr(LIBRARY, "malloc_trim"), reason="glibc only")


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def test_freed_memory_goes_back_to_the_system() -> None:
    LIBRARY.malloc.restype = ctypes.c_void_p
    LIBRARY.free.argtypes = [ctypes.c_void_p]
    blocks = [LIBRARY.malloc(BLOCK_BYTES) for _ in range(BLOCKS)]
    for block in blocks:
        ctypes.memset(block, 1, BLOCK_BYTES)
    *freed, kept = blocks  # the last one keeps those below it from being given back
    for block in freed:
        LIBRARY.free(block)
    before = _resident_bytes()
    memory.give_back()
    assert before - _resident_bytes() > BLOCKS * BLOCK_BYTES / 2
    LIBRARY.free(kept)


@pytest.mark.parametrize(("how", "returned"), [("keep little", True), ("as it comes", False)])
def test_a_large_block_is_returned_whatever_was_freed_before(how: str, returned: bool) -> None:
    command = [sys.executable, "-c", FREED, how]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert (int(done.stdout) > 19 * MB) is returned


def test_a_server_is_not_larger_after_large_pictures(tmp_path: Path) -> None:
    tiny_models.add(tmp_path / "store", "colours", "single")
    sizes_px = (3000, 3100, 3200, 3300, 3400)
    pictures = [encoded(Image.new("RGB", (size, size), "red"), "PNG") for size in sizes_px]
    with serve(tmp_path, model_store=tmp_path / "store") as running:
        worker = psutil.Process(running.worker())

        def ask(picture: bytes) -> int:
            return post(f"{running.url}/classify", content=picture, timeout=60).status_code

        assert ask(tiny_models.picture()) == 200
        before = worker.memory_info().rss
        assert ask(pictures[0]) == 200
        with ThreadPoolExecutor() as clients:
            assert set(clients.map(ask, pictures[1:])) == {200}
        assert worker.memory_info().rss - before < 30 * MB  # 60 and more with glibc's own limits
