"""What this process may compute with: CPU cores, and which processor they are.

Python, torch and ONNX Runtime count the host's cores; a container's quota is in its cgroup.
"""

import math
import os
import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
CGROUP = Path("/sys/fs/cgroup")
_EXTENSIONS = {  # of x86: the kernel's flags, any of which shows it
    "AVX2": {"avx2"},
    "AVX-512": {"avx512f"},
    "VNNI": {"avx512_vnni", "avx_vnni"},
    "BF16": {"avx512_bf16"},
    "AMX": {"amx_tile"},
}


def processor(cpuinfo: Path = CPUINFO) -> str:
    """The processor's name, and which extensions it has and lacks of those that decide its speed.

    As in `AMD EPYC, with AVX2, AVX-512, VNNI, BF16, without AMX`; the architecture alone where the
    kernel tells no more, as on macOS.
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
    found = [extension for extension, marks in _EXTENSIONS.items() if marks & flags]
    missing = [extension for extension in _EXTENSIONS if extension not in found]
    listed = [("with", found), ("without", missing)]
    return ", ".join([name, *(f"{word} {', '.join(those)}" for word, those in listed if those)])


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
