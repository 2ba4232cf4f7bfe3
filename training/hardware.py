"""Device, dtype, memory and cores: the recipe's `auto`, resolved for this machine."""

import os

import psutil
import torch

from models import hardware
from models.errors import RecipeError
from training.recipe import Device, Dtype


def pick_device(device: Device) -> torch.device:
    """The device that `auto`, `cuda` or `cpu` stands for; RecipeError if there is no CUDA."""
    if device == "cuda" and not torch.cuda.is_available():
        raise RecipeError("--device cuda: torch finds no usable NVIDIA GPU; use auto or cpu")
    name = "cuda" if device == "auto" and torch.cuda.is_available() else device
    return torch.device("cpu" if name == "auto" else name)


def pick_dtype(dtype: Dtype, device: torch.device) -> Dtype:
    """The dtype that `auto` stands for: bfloat16 where the device has hardware for it."""
    if dtype != "auto":
        return dtype
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    return "bfloat16" if fast else "float32"


def free_memory() -> int:
    """This process's part of the free bytes of the machine or of the container, whichever is less.

    The processes that torchrun started on the machine have equal parts.
    """
    free = min(psutil.virtual_memory().available, hardware.free_memory())
    return int(free / _local_processes())


def cpu_cores() -> int:
    """This process's part of the usable cores, at least one."""
    return max(1, hardware.cpu_cores() // _local_processes())


def _local_processes() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # which torchrun sets
