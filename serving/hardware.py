"""The GPUs that this process may use, and how many workers they need."""

import ctypes

_CORES_A_WORKER = 2  # its event loop takes one, and its other threads most of another
_WORKERS_A_GPU = 4  # at most: they can answer 6,000 images a second; more only split the batches


def gpus() -> int:
    """The number of NVIDIA GPUs that are visible to this process; 0 without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def workers_on_cuda(gpu_count: int, cores: int) -> int:
    """How many workers keep the GPUs busy (`benchmarks/README.md`, "Workers on one GPU").

    One for every two cores, at least one and at most four for each GPU.
    """
    return min(max(gpu_count, cores // _CORES_A_WORKER), gpu_count * _WORKERS_A_GPU)
