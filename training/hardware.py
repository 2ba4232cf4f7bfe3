"""Device, dtype and free memory: the recipe's `auto`, resolved for this machine."""

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
    """Free bytes of the machine or of the container, whichever is less."""
    return int(min(psutil.virtual_memory().available, hardware.free_memory()))
