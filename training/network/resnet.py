"""The network: a torchvision ResNet that takes pixels, and the same with its decision inside."""

from pathlib import Path

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from models.bundle import sha256
from models.errors import RecipeError, RunError
from models.manifest import Task
from training.recipe import Arch

_MEAN = (0.485, 0.456, 0.406)  # of ImageNet, as all of torchvision's weights expect
_DEVIATION = (0.229, 0.224, 0.225)
_COUNTER = "num_batches_tracked"  # files from before PyTorch 0.4.1 lack it


class Network(nn.Module):
    """A ResNet whose head is linear on average-pooled features.

    The keys of `resnet` are torchvision's.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, arch: Arch, labels: int) -> None:
        super().__init__()
        self.resnet = torchvision.models.get_model(arch, weights=None, num_classes=labels)
        nn.init.zeros_(self.resnet.fc.bias)
        # float32 [1, 3, 1, 1], in units of a uint8 pixel
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1) * 255, persistent=False)
        deviation = torch.tensor(_DEVIATION).view(1, 3, 1, 1) * 255
        self.register_buffer("deviation", deviation, persistent=False)

    @property
    def blocks(self) -> list[nn.Module]:
        """From stem to head: the parts that get learning rates of their own."""
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
    """The network whose weights are in `file`, in evaluation mode. RunError if it is damaged."""
    network = Network(arch, labels)
    try:
        network.resnet.load_state_dict(load_file(file))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RunError(f"{file} is missing or damaged") from error
    return network.eval()


class Served(nn.Module):
    """What is exported: images uint8 `[N, S, S, 3]` -> scores `[N, C]`, maps `[N, C, h, w]`.

    scores are probabilities; maps are each position's own logits, of which the mean over the
    positions is the image's logits. Both are float32, whatever the ResNet's weights are.
    """

    def __init__(self, network: Network, task: Task, temperature: float) -> None:
        super().__init__()
        self.network = network
        self.task = task
        self.temperature = temperature

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.network.features(images.permute(0, 3, 1, 2).float())
        logits = self.network.logits(features).float() / self.temperature
        scores = logits.softmax(1) if self.task == "single" else logits.sigmoid()
        head = self.network.resnet.fc
        maps = nn.functional.conv2d(features, head.weight[:, :, None, None], head.bias)
        return scores, maps.float() / self.temperature


def pretrain(network: Network, arch: Arch, weights: str) -> tuple[str, str | None, str]:
    """Load pretrained weights into all but the head; say what they are.

    `weights`: imagenet, none, or a file (.pth, .safetensors) with torchvision's keys. Returns
    their description, the file's sha256 and their licence. Raises RecipeError if they cannot be
    had or belong to another architecture.
    """
    if weights == "none":
        return "none", None, "none"
    if weights == "imagenet":
        choice = torchvision.models.get_model_weights(arch)["DEFAULT"]
        try:
            state = choice.get_state_dict(check_hash=True)
        except Exception as error:  # a download fails in many ways, and so does unpickling
            raise RecipeError(
                f"--weights imagenet: {choice} cannot be downloaded from {choice.url} ({error});"
                " download it elsewhere and give --weights FILE, or use --weights none"
            ) from error
        _load(network, state, str(choice), arch)
        return str(choice), None, "BSD-3-Clause (torchvision), trained on ImageNet"
    file = Path(weights)
    try:
        data = file.read_bytes()
        if file.suffix == ".safetensors":
            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling fails in many ways
        raise RecipeError(
            f"--weights {weights} is neither imagenet, none nor a readable state dict:"
            f" {str(error).partition(chr(10))[0]}"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise RecipeError(f"--weights {weights} is no state dict: it must map names to tensors")
    _load(network, state, weights, arch)
    return file.name, sha256(data), "unknown"


def _load(network: Network, state: dict[str, Tensor], name: str, arch: Arch) -> None:
    body = {key: value for key, value in state.items() if not key.startswith("fc.")}
    own = {k: v for k, v in network.resnet.state_dict().items() if not k.startswith("fc.")}
    differing = {key for key in own.keys() ^ body.keys() if not key.endswith(_COUNTER)}
    wrong = sorted(differing) or sorted(
        key for key in own.keys() & body.keys() if own[key].shape != body[key].shape
    )
    if wrong:
        raise RecipeError(f"--weights {name} is no {arch}: {wrong[0]} and {len(wrong) - 1} others")
    network.resnet.load_state_dict(body, strict=False)
