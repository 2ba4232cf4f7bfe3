"""Inference in batches, in float32."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training import output
from training.network.resnet import Network

_BATCH = 64


@torch.inference_mode()
def in_batches(
    function: Callable[[Tensor], Tensor], images: Tensor, device: torch.device
) -> NDArray[np.float32]:
    """`function` of the images, uint8 `[N, S, S, 3]`, 64 at a time on `device`, without TF32."""
    batches = torch.split(images, _BATCH)
    bar = output.each(batches, "evaluating", "batches", len(batches))
    with torch.backends.cudnn.flags(allow_tf32=False):
        return torch.cat([function(batch.to(device)).float().cpu() for batch in bar]).numpy()


def logits_of(network: Network, images: Tensor, device: torch.device) -> NDArray[np.float32]:
    """images uint8 `[N, S, S, 3]` -> logits `[N, C]`."""
    network.eval()
    return in_batches(lambda batch: network(batch.permute(0, 3, 1, 2).float()), images, device)


def features_and_logits_of(
    network: Network, images: Tensor, device: torch.device
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """images uint8 `[N, S, S, 3]` -> pooled features `[N, F]` and logits `[N, C]`."""
    network.eval()

    def columns(batch: Tensor) -> Tensor:
        pooled = network.features(batch.permute(0, 3, 1, 2).float()).mean((2, 3))
        return torch.cat([network.resnet.fc(pooled), pooled], 1)

    found = in_batches(columns, images, device)
    count = network.resnet.fc.out_features
    return np.ascontiguousarray(found[:, count:]), np.ascontiguousarray(found[:, :count])
