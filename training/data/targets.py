"""Labels as arrays: the targets of training and evaluation."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from models.errors import DataError
from models.manifest import Task
from models.wording import counted
from training.data.record import Record


def encode(records: Sequence[Record], labels: Sequence[str]) -> NDArray[np.bool_]:
    """Which image has which label: bool `[N, C]`. DataError on a label that the model lacks."""
    column = {label: number for number, label in enumerate(labels)}
    targets = np.zeros((len(records), len(labels)), np.bool_)
    for row, record in enumerate(records):
        for name in record.labels:
            if name not in column:
                raise DataError(f"the model has no label {name!r}; valid: {', '.join(labels)}")
            targets[row, column[name]] = True
    if not targets.any():
        raise DataError(
            f"{counted(len(targets), 'image')} without a single label: nothing to train on or to"
            " evaluate"
        )
    return targets


def loss_targets(targets: NDArray[np.bool_], task: Task) -> torch.Tensor:
    """The loss's targets, from bool `[N, C]`: indices `[N]`, or 0 and 1 `[N, C]`, float32."""
    multi_hot = torch.from_numpy(targets)
    return multi_hot.int().argmax(1) if task == "single" else multi_hot.float()
