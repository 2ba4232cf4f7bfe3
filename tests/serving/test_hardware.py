import ctypes
from pathlib import Path

import pytest

from serving.hardware import give_back_memory, gpus, workers_on_cuda


@pytest.mark.gpu
def test_gpus_are_counted_if_the_driver_reports_them() -> None:
    if not Path("/dev/nvidia0").exists():
        pytest.skip("no NVIDIA GPU")
    assert gpus() >= 1


def test_hidden_gpus_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    if Path("/dev/nvidia0").exists():
        pytest.skip("the driver reads the variable once")
    assert gpus() == 0


@pytest.mark.parametrize(
    ("gpu_count", "cores", "workers"),
    [(1, 1, 1), (1, 3, 1), (1, 4, 2), (1, 8, 4), (1, 64, 4), (2, 2, 2), (2, 64, 8), (8, 24, 12)],
)
def test_two_cores_a_worker_feed_the_gpus(gpu_count: int, cores: int, workers: int) -> None:
    assert workers_on_cuda(gpu_count, cores) == workers


LIBRARY = ctypes.CDLL(None)
BLOCKS, BLOCK_BYTES = 1000, 64 * 2**10  # of a size that glibc doesn't map one by one


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


@pytest.mark.skipif(not hasattr(LIBRARY, "malloc_trim"), reason="glibc only")
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
    give_back_memory()
    assert before - _resident_bytes() > BLOCKS * BLOCK_BYTES / 2
    LIBRARY.free(kept)
