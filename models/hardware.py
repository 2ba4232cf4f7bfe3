"""The CPU and the memory of this process: what it has, and how much of it may be used.

Python, torch and ONNX Runtime count the host's; a container's limits are in its cgroup.
"""

import math
import os
import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")
_EXTENSIONS = {  # x86 extension -> kernel flags, any of which implies it
    "AVX2": {"avx2"},
    "AVX-512": {"avx512f"},
    "VNNI": {"avx512_vnni", "avx_vnni"},
    "BF16": {"avx512_bf16"},
    "AMX": {"amx_tile"},
}


def processor(cpuinfo: Path = CPUINFO) -> str:
    """The processor's name, and which of the extensions that matter for speed it has and lacks.

    For example `AMD EPYC, with AVX2, AVX-512, VNNI, BF16, without AMX`; only the architecture where
    the kernel reports no more, as on macOS.
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    entries = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }
    name = entries.get("model name", platform.machine())
    flags = set(entries.get("flags", "").split())
    if not flags:
        return name
    found = [extension for extension, implying in _EXTENSIONS.items() if implying & flags]
    missing = [extension for extension in _EXTENSIONS if extension not in found]
    listed = [("with", found), ("without", missing)]
    return ", ".join([name, *(f"{word} {', '.join(names)}" for word, names in listed if names)])


def cpu_cores(cgroup: Path = CGROUP) -> int:
    """Usable cores: the cgroup's quota, rounded up, or the process's affinity if it is smaller."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, math.ceil(min(allowed or 1, _quota(cgroup))))


def _quota(cgroup: Path) -> float:
    """The CPU quota in cores, from cgroup v2 or v1; infinity if there is none."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text()
        except OSError:
            return math.inf
    return math.inf if quota in ("max", "-1") else int(quota) / int(period)


def free_memory(cgroup: Path = CGROUP, meminfo: Path = MEMINFO) -> float:
    """Bytes that can still be allocated in the machine or the container, whichever is less.

    Infinity where the system does not say, as on macOS.
    """
    available = _number(meminfo, "MemAvailable:")
    free = math.inf if available is None else 1024 * available
    return min(free, _room(cgroup))


def _room(cgroup: Path) -> float:
    """Bytes below the memory limit, of cgroup v2 or v1; infinity if there is none.

    As for the kubelet, page cache that was not used lately is free: the kernel gives it back.
    """
    for folder, limit, used, cache in (
        (cgroup, "max", "current", "inactive_file"),
        (cgroup / "memory", "limit_in_bytes", "usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most, now = (int((folder / f"memory.{name}").read_text()) for name in (limit, used))
        except (OSError, ValueError):  # not this version, or no limit: "max"
            continue
        return max(0, most - now + (_number(folder / "memory.stat", cache) or 0))
    return math.inf


def _number(file: Path, name: str) -> int | None:
    """What the file's line that begins with `name` says; None if it says nothing."""
    try:
        entries = [line.split() for line in file.read_text().splitlines()]
        return next((int(entry[1]) for entry in entries if entry[:1] == [name]), None)
    except (OSError, ValueError, IndexError):
        return None
