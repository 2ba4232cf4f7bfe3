"""A ResNet-18 an eighth as wide as torchvision's, with its layers and keys: 0.7 MB of weights.

A checkpoint of the real one takes 45 to 134 MB, and each is synced to disk.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

REAL = torchvision.models.get_model
_WIDTH = 8  # of the stem and the first layer; ResNet-18 has 64


class _Narrow(ResNet):  # type: ignore[misc]
    def __init__(self, num_classes: int) -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=num_classes)
        self.conv1 = nn.Conv2d(3, _WIDTH, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(_WIDTH)
        self.fc = nn.Linear(self.inplanes, num_classes)

    def _make_layer(self, block: Any, planes: int, *others: Any, **more: Any) -> nn.Sequential:
        if planes == 64:
            self.inplanes = _WIDTH
        made: nn.Sequential = super()._make_layer(block, planes * _WIDTH // 64, *others, **more)
        return made


def put_in_place() -> None:
    """Replace torchvision's for the rest of this process."""
    torchvision.models.get_model = _get_model


@contextmanager
def in_place(model: Any = None) -> Iterator[None]:
    """Replace torchvision's `get_model` in this context, by `model` if given."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torchvision.models, "get_model", model or _get_model)
        yield


def _get_model(arch: str, *, weights: None, num_classes: int) -> nn.Module:
    return _Narrow(num_classes)
