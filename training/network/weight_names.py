"""The names of a ResNet's weights: torchvision's, timm's, which are the same, and transformers'."""

import re
from collections.abc import Mapping

from torch import Tensor

from models.wording import counted, some

_COUNTER = "num_batches_tracked"  # files from before PyTorch 0.4.1 lack it
_SHOWN = 3  # of each kind of difference
_PART = {"convolution": "conv", "normalization": "bn"}
_STEM = re.compile(r"resnet\.embedder\.embedder\.(convolution|normalization)\.(\w+)")
_LAYER = re.compile(
    r"resnet\.encoder\.stages\.(\d+)\.layers\.(\d+)\.(layer\.(\d+)|shortcut)"
    r"\.(convolution|normalization)\.(\w+)"
)


def torchvision_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under torchvision's names, without the head's.

    Those of transformers' `ResNetForImageClassification` are renamed. Its bottlenecks have their
    stride where torchvision's have it, in the second convolution, unless their configuration has
    `downsample_in_bottleneck`, which the weights do not show.
    """
    body = {_renamed(name): value for name, value in state.items()}
    return {name: value for name, value in body.items() if not _is_of_head(name)}


def differences(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """How given weights differ from a network's own, by name and shape; empty if they fit."""
    expected = [name for name in own if not _is_of_head(name)]
    missing = [name for name in expected if name not in given and not name.endswith(_COUNTER)]
    unexpected = [name for name in given if name not in own and not name.endswith(_COUNTER)]
    shapes = [
        f"{name} {_shape(given[name])} in place of {_shape(own[name])}"
        for name in expected
        if name in given and given[name].shape != own[name].shape
    ]
    return "; ".join(
        [
            *_described("missing", missing),
            *_described("unexpected", unexpected),
            *_described("of another shape", shapes),
        ]
    )


def _described(what: str, names: list[str]) -> list[str]:
    return [f"{counted(len(names), 'key')} {what}: {some(names, _SHOWN)}"] if names else []


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "scalar"


def _is_of_head(name: str) -> bool:
    return name.startswith(("fc.", "classifier."))


def _renamed(name: str) -> str:
    if stem := _STEM.fullmatch(name):
        return f"{_PART[stem[1]]}1.{stem[2]}"
    if not (found := _LAYER.fullmatch(name)):
        return name
    stage, block, place, number, part, rest = found.groups()
    if place == "shortcut":
        inside = "downsample.0" if part == "convolution" else "downsample.1"
    else:
        inside = f"{_PART[part]}{int(number) + 1}"
    return f"layer{int(stage) + 1}.{block}.{inside}.{rest}"
