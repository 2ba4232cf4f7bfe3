import os
from pathlib import Path

import pytest

from serving.cores import cpu_cores, gpus


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_without_a_quota_all_cores_of_the_process_count(tmp_path: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    assert cpu_cores(tmp_path) == cores
    _write(tmp_path / "cpu.max", "max 100000\n")
    assert cpu_cores(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [("50000", 1), ("100000", 1)])
def test_the_quota_of_cgroup_v2_is_rounded_up(tmp_path: Path, quota: str, cores: int) -> None:
    _write(tmp_path / "cpu.max", f"{quota} 100000\n")
    assert cpu_cores(tmp_path) == cores


def test_a_quota_above_the_cores_of_the_process_gives_no_more(tmp_path: Path) -> None:
    _write(tmp_path / "cpu.max", "99900000 100000\n")
    assert cpu_cores(tmp_path) == len(os.sched_getaffinity(0))


def test_the_quota_of_cgroup_v1_counts(tmp_path: Path) -> None:
    _write(tmp_path / "cpu/cpu.cfs_quota_us", "100000\n")
    _write(tmp_path / "cpu/cpu.cfs_period_us", "100000\n")
    assert cpu_cores(tmp_path) == 1
    _write(tmp_path / "cpu/cpu.cfs_quota_us", "-1\n")
    assert cpu_cores(tmp_path) == len(os.sched_getaffinity(0))


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
