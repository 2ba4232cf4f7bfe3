"""The number of GPUs that this process may use."""

import ctypes


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
