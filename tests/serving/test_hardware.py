from pathlib import Path

import pytest

from serving.hardware import gpus


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
