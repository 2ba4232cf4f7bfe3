from pathlib import Path

import pytest

from serving.hardware import gpus, workers_on_cuda


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
