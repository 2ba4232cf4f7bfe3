"""The network: a torchvision ResNet that takes pixels, and its exported form."""

from pathlib import Path

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from models.errors import RunError
from models.manifest import Task
from training.network.novelty import Novelty
from training.recipe import Arch

_MEAN = (0.485, 0.456, 0.406)  # of ImageNet, as all torchvision weights expect
_STANDARD_DEVIATION = (0.229, 0.224, 0.225)


class Network(nn.Module):
    """A ResNet whose head is linear on average-pooled features.

    The keys of `resnet` are torchvision's.
    """

    mean: Tensor
    deviation: Tensor  # the standard deviation; its name is part of model.onnx

    def __init__(self, arch: Arch, labels: int) -> None:
        super().__init__()
        self.resnet = torchvision.models.get_model(arch, weights=None, num_classes=labels)
        nn.init.zeros_(self.resnet.fc.bias)
        # float32 [1, 3, 1, 1], in units of a uint8 pixel
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1) * 255, persistent=False)
        deviation = torch.tensor(_STANDARD_DEVIATION).view(1, 3, 1, 1) * 255
        self.register_buffer("deviation", deviation, persistent=False)

    @property
    def blocks(self) -> list[nn.Module]:
        """From stem to head: the parts that each have their own learning rate."""
        net = self.resnet
        stem = nn.ModuleList([net.conv1, net.bn1])
        return [stem, net.layer1, net.layer2, net.layer3, net.layer4, net.fc]

    def weights(self) -> bytes:
        """The weights as a safetensors file."""
        state = self.resnet.state_dict()
        return save({key: value.contiguous() for key, value in state.items()})

    def features(self, images: Tensor) -> Tensor:
        """images `[N, 3, S, S]`, RGB in [0, 255] -> features `[N, F, S / 32, S / 32]`."""
        net = self.resnet
        x = ((images - self.mean) / self.deviation).to(net.conv1.weight.dtype)
        x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
        return net.layer4(net.layer3(net.layer2(net.layer1(x))))  # type: ignore[no-any-return]

    def logits(self, features: Tensor) -> Tensor:
        """features `[N, F, h, w]` -> logits `[N, C]`."""
        return self.resnet.fc(features.mean((2, 3)))  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> Tensor:
        """images `[N, 3, S, S]`, RGB in [0, 255] -> logits `[N, C]`."""
        return self.logits(self.features(images))


def read(file: Path, arch: Arch, labels: int) -> Network:
    """The network whose weights are in `file`, in evaluation mode. RunError if it is corrupt."""
    network = Network(arch, labels)
    try:
        network.resnet.load_state_dict(load_file(file))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RunError(f"{file} is missing or corrupt") from error
    return network.eval()


class Served(nn.Module):
    """What is exported: images uint8 `[N, S, S, 3]` -> scores `[N, C]`, maps `[N, C, h, w]` and, if
    it is measured, novelty `[N]`.

    scores are probabilities; maps are the logits of each position, whose mean over all positions
    is the image's logits. All are float32, whatever the dtype of the ResNet's weights.
    """

    def __init__(
        self, network: Network, task: Task, temperature: float, novelty: Novelty | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.task = task
        self.temperature = temperature
        self.novelty = novelty

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.network.features(images.permute(0, 3, 1, 2).float())
        pooled = features.mean((2, 3))
        logits = self.network.resnet.fc(pooled).float() / self.temperature
        scores = logits.softmax(1) if self.task == "single" else logits.sigmoid()
        head = self.network.resnet.fc
        maps = nn.functional.conv2d(features, head.weight[:, :, None, None], head.bias)
        outputs = (scores, maps.float() / self.temperature)
        return outputs if self.novelty is None else (*outputs, self.novelty(pooled.float()))
