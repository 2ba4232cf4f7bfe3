import math
import os
import platform
from pathlib import Path

import pytest

from models.hardware import cpu_cores, free_memory, processor


@pytest.mark.parametrize(
    ("name", "flags", "said"),
    [
        (
            "AMD EPYC 9B14",
            "fpu avx2 avx512f avx512_vnni avx512_bf16",
            "AMD EPYC 9B14, with AVX2, AVX-512, VNNI, BF16, without AMX",
        ),
        (
            "Intel(R) Xeon(R) Platinum 8481C",
            "avx2 avx512f avx512_vnni avx512_bf16 amx_bf16 amx_tile amx_int8",
            "Intel(R) Xeon(R) Platinum 8481C, with AVX2, AVX-512, VNNI, BF16, AMX",
        ),
        (
            "12th Gen Intel(R) Core(TM) i7",
            "avx2 avx_vnni",
            "12th Gen Intel(R) Core(TM) i7, with AVX2, VNNI, without AVX-512, BF16, AMX",
        ),
        ("Old", "sse4_2", "Old, without AVX2, AVX-512, VNNI, BF16, AMX"),
    ],
)
def test_a_processor_is_named_with_the_extensions_it_has_and_lacks(
    name: str, flags: str, said: str, tmp_path: Path
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    core = f"processor\t: 0\nmodel name\t: {name}\nflags\t\t: {flags}\n"
    cpuinfo.write_text(f"{core}\n{core}")
    assert processor(cpuinfo) == said


def test_without_a_processor_name_from_the_kernel_the_architecture_is_used(tmp_path: Path) -> None:
    assert processor(tmp_path / "missing") == platform.machine()
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nBogoMIPS\t: 243.75\nFeatures\t: fp asimd\n")
    assert processor(tmp_path / "cpuinfo") == platform.machine()


def test_this_processor_has_a_name() -> None:
    assert processor()


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that this process may run on eight cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))


def test_without_a_quota_all_cores_of_the_process_count(tmp_path: Path, eight_cores: None) -> None:
    assert cpu_cores(tmp_path) == 8
    _write(tmp_path / "cpu.max", "max 100000\n")
    assert cpu_cores(tmp_path) == 8


def test_without_an_affinity_from_the_system_all_cores_of_the_machine_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    assert cpu_cores(tmp_path) == os.cpu_count()


QUOTAS = [("1000", 1), ("100000", 1), ("100001", 2), ("250000", 3), ("799999", 8), ("9900000", 8)]


@pytest.mark.parametrize(("quota", "cores"), QUOTAS)
def test_the_quota_of_cgroup_v2_is_rounded_up_and_limited_by_the_affinity(
    tmp_path: Path, eight_cores: None, quota: str, cores: int
) -> None:
    _write(tmp_path / "cpu.max", f"{quota} 100000\n")
    assert cpu_cores(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [*QUOTAS, ("-1", 8)])
def test_the_quota_of_cgroup_v1_is_treated_the_same(
    tmp_path: Path, eight_cores: None, quota: str, cores: int
) -> None:
    _write(tmp_path / "cpu/cpu.cfs_quota_us", f"{quota}\n")
    _write(tmp_path / "cpu/cpu.cfs_period_us", "100000\n")
    assert cpu_cores(tmp_path) == cores


MEMINFO = "MemTotal:        2000 kB\nMemFree:          100 kB\nMemAvailable:    1000 kB\n"
V2 = ("memory.max", "memory.current", "memory.stat", "inactive_file")
V1 = (
    "memory/memory.limit_in_bytes",
    "memory/memory.usage_in_bytes",
    "memory/memory.stat",
    "total_inactive_file",
)


@pytest.mark.parametrize("names", [V2, V1], ids=["v2", "v1"])
@pytest.mark.parametrize(
    ("limit", "used", "cache", "free"),
    [
        (9000, 8000, 0, 1000),
        (9000, 8999, 8000, 8001),  # mostly of files that were read once
        (9000, 9100, 50, 0),
        (9_000_000, 0, 0, 1_024_000),  # more than the machine has
    ],
)
def test_page_cache_that_is_given_back_is_free(
    names: tuple[str, ...], limit: int, used: int, cache: int, free: int, tmp_path: Path
) -> None:
    _write(tmp_path / "meminfo", MEMINFO)
    _write(tmp_path / names[0], f"{limit}\n")
    _write(tmp_path / names[1], f"{used}\n")
    _write(tmp_path / names[2], f"anon 7\nactive_file 9\n{names[3]} {cache}\n")
    assert free_memory(tmp_path, tmp_path / "meminfo") == free


def test_without_a_limit_all_that_the_machine_has_is_free(tmp_path: Path) -> None:
    _write(tmp_path / "meminfo", MEMINFO)
    _write(tmp_path / "memory.max", "max\n")
    _write(tmp_path / "memory.current", "5\n")
    assert free_memory(tmp_path, tmp_path / "meminfo") == 1_024_000
    assert free_memory(tmp_path, tmp_path / "nothing") == math.inf
