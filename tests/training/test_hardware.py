from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from models import hardware
from models.errors import RecipeError
from training.hardware import cpu_cores, free_memory, pick_device, pick_dtype

CPU = torch.device("cpu")


def test_auto_takes_cuda_only_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")
    with pytest.raises(RecipeError, match="--device cuda: .* no usable NVIDIA GPU; use auto or"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda")
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(("units", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_auto_is_bfloat16_where_the_processor_has_hardware_for_it(
    units: bool, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": units})
    assert pick_dtype("auto", CPU) == dtype
    assert pick_dtype("float32", CPU) == "float32"


def free(monkeypatch: pytest.MonkeyPatch, machine: int, *cgroup: int | str | None) -> int:
    """`free_memory` with this many bytes free, in a container with (max, current)."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=machine))
    texts = {f"memory.{n}": v for n, v in zip(("max", "current"), cgroup, strict=False)}
    read = Path.read_text

    def read_text(file: Path) -> str:
        if file.parent != Path("/sys/fs/cgroup"):
            return read(file)
        if texts.get(file.name) is None:
            raise FileNotFoundError(file)
        return f"{texts[file.name]}\n"

    monkeypatch.setattr(Path, "read_text", read_text)
    return free_memory()


def test_free_memory_is_the_machine_s_or_the_container_s(monkeypatch: pytest.MonkeyPatch) -> None:
    assert free(monkeypatch, 1000) == 1000
    assert free(monkeypatch, 1000, "max", 900) == 1000
    assert free(monkeypatch, 1000, 700, 300) == 400
    assert free(monkeypatch, 300, 700, 300) == 300


def test_the_processes_of_a_machine_share_its_memory_and_its_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hardware, "cpu_cores", lambda: 6)
    assert cpu_cores() == 6
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert (cpu_cores(), free(monkeypatch, 1000)) == (1, 250)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert cpu_cores() == 1
