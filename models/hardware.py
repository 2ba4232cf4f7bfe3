"""What the machine computes with, in a line: a figure says little without it."""

import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
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
