"""Weights as timm and transformers name them."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from training.network.pretrained import pretrain
from training.network.resnet import Network
from training.network.weight_names import torchvision_names
from training.recipe import Arch

pytestmark = pytest.mark.usefixtures("real_networks")

# of transformers' ResNetForImageClassification, as `state_dict()` of 5.24 lists them
TRANSFORMERS = {
    "resnet.embedder.embedder.convolution.weight": "conv1.weight",
    "resnet.embedder.embedder.normalization.running_mean": "bn1.running_mean",
    "resnet.encoder.stages.0.layers.0.shortcut.convolution.weight": "layer1.0.downsample.0.weight",
    "resnet.encoder.stages.1.layers.0.shortcut.normalization.bias": "layer2.0.downsample.1.bias",
    "resnet.encoder.stages.2.layers.5.layer.0.convolution.weight": "layer3.5.conv1.weight",
    "resnet.encoder.stages.3.layers.2.layer.2.normalization.weight": "layer4.2.bn3.weight",
    "resnet.encoder.stages.3.layers.1.layer.1.normalization.num_batches_tracked": (
        "layer4.1.bn2.num_batches_tracked"
    ),
}


def test_transformers_names_become_torchvision_s_and_the_head_is_left_out() -> None:
    head = {"classifier.1.weight": torch.ones(2, 2), "fc.bias": torch.ones(2)}
    given = {name: torch.tensor(float(n)) for n, name in enumerate(TRANSFORMERS)}
    found = torchvision_names(given | head)
    assert list(found) == list(TRANSFORMERS.values())
    assert [float(value) for value in found.values()] == list(range(len(TRANSFORMERS)))


def transformers_name(name: str) -> str:
    """The other way round, by another route: part by part."""
    first, *rest = name.split(".")
    kind = {"conv": "convolution", "bn": "normalization"}
    if first in ("conv1", "bn1"):
        return ".".join(["resnet.embedder.embedder", kind[first[:-1]], *rest])
    if first == "fc":
        return ".".join(["classifier.1", *rest])
    block, part, *rest = rest
    place = ["resnet.encoder.stages", str(int(first[-1]) - 1), "layers", block]
    if part == "downsample":
        return ".".join([*place, "shortcut", list(kind.values())[int(rest[0])], *rest[1:]])
    return ".".join([*place, "layer", str(int(part[-1]) - 1), kind[part[:-1]], *rest])


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
@pytest.mark.parametrize("source", ["timm", "transformers"])
def test_a_safetensors_file_of_each_loads_every_weight(
    tmp_path: Path, arch: Arch, source: str
) -> None:
    torch.manual_seed(1)
    state: dict[str, Tensor] = Network(arch, 1000).resnet.state_dict()
    named = state
    if source == "transformers":
        named = {transformers_name(name): value for name, value in state.items()}
        assert "resnet.encoder.stages.3.layers.1.layer.1.convolution.weight" in named
    save_file(named, tmp_path / "model.safetensors")
    torch.manual_seed(2)
    network = Network(arch, 3)
    pretrain(network, arch, str(tmp_path / "model.safetensors"))
    for name, value in network.resnet.state_dict().items():
        assert name.startswith("fc.") or torch.equal(value, state[name]), name
