"""Labels as arrays: what a network learns, and what it is measured against."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from models.errors import DataError
from models.manifest import Task
from training.data.record import Record


def encode(records: Sequence[Record], labels: Sequence[str]) -> NDArray[np.bool_]:
    """Which image has which label: `[N, C]`. DataError on a label that is not the model's."""
    column = {label: number for number, label in enumerate(labels)}
    targets = np.zeros((len(records), len(labels)), np.bool_)
    for row, record in enumerate(records):
        for name in record.labels:
            if name not in column:
                raise DataError(f"the model has no label {name!r}; it has {', '.join(labels)}")
            targets[row, column[name]] = True
    if not targets.any():
        raise DataError(f"none of the {len(targets)} images has a label: nothing to go by")
    return targets


def loss_targets(targets: NDArray[np.bool_], task: Task) -> torch.Tensor:
    """What the loss takes, from `[N, C]`: indices `[N]`, or 0 and 1 `[N, C]`, float32."""
    learned = torch.from_numpy(targets)
    return learned.int().argmax(1) if task == "single" else learned.float()
