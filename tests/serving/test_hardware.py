import os
from pathlib import Path

import pytest

from serving.hardware import cpu_cores, gpus


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever machine this is, this process may run on eight cores of it."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))


def test_without_a_quota_all_cores_of_the_process_count(tmp_path: Path, eight_cores: None) -> None:
    assert cpu_cores(tmp_path) == 8
    _write(tmp_path / "cpu.max", "max 100000\n")
    assert cpu_cores(tmp_path) == 8


QUOTAS = [("1000", 1), ("100000", 1), ("100001", 2), ("250000", 3), ("799999", 8), ("9900000", 8)]


@pytest.mark.parametrize(("quota", "cores"), QUOTAS)
def test_the_quota_of_cgroup_v2_is_rounded_up_and_gives_no_core_that_is_not_allowed(
    tmp_path: Path, eight_cores: None, quota: str, cores: int
) -> None:
    _write(tmp_path / "cpu.max", f"{quota} 100000\n")
    assert cpu_cores(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [*QUOTAS, ("-1", 8)])
def test_the_quota_of_cgroup_v1_counts_likewise(
    tmp_path: Path, eight_cores: None, quota: str, cores: int
) -> None:
    _write(tmp_path / "cpu/cpu.cfs_quota_us", f"{quota}\n")
    _write(tmp_path / "cpu/cpu.cfs_period_us", "100000\n")
    assert cpu_cores(tmp_path) == cores


@pytest.mark.gpu
def test_gpus_are_counted_where_the_driver_shows_them() -> None:
    if not Path("/dev/nvidia0").exists():
        pytest.skip("no NVIDIA GPU")
    assert gpus() >= 1


def test_hidden_gpus_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    if Path("/dev/nvidia0").exists():
        pytest.skip("the driver reads the variable once")
    assert gpus() == 0
