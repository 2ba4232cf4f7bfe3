"""The loss of each task, and the precision of training."""

import torch
from torch import Tensor, nn

from models.manifest import Task
from training.hardware import pick_dtype
from training.recipe import Dtype


def precision(device: torch.device, dtype: Dtype) -> torch.autocast:
    """Mixed precision with bfloat16, if `dtype` is that or resolves to it on the device."""
    mixed = pick_dtype(dtype, device) == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=mixed)


def loss_of(logits: Tensor, targets: Tensor, task: Task) -> Tensor:
    """Mean cross-entropy (targets: indices `[N]`) or binary cross-entropy (float `[N, C]`)."""
    if task == "single":
        return nn.functional.cross_entropy(logits, targets)
    return nn.functional.binary_cross_entropy_with_logits(logits, targets)
