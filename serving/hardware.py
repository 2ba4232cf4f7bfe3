"""How many CPU cores and GPUs this process may use.

ONNX Runtime and Python count the host's cores; a container's quota is in its cgroup.
"""

import ctypes
import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def cpu_cores(cgroup: Path = CGROUP) -> int:
    """Cores of the cgroup's quota, rounded up, at most those the process may run on; at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, math.ceil(min(allowed or 1, _quota(cgroup))))


def _quota(cgroup: Path) -> float:
    """Cores of the quota, cgroup v2 or v1; infinite without one."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text()
        except OSError:
            return math.inf
    return math.inf if quota in ("max", "-1") else int(quota) / int(period)


def gpus() -> int:
    """NVIDIA GPUs that the driver lets this process see; 0 without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value
