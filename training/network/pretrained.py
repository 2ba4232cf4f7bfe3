"""Initial weights: torchvision's, a file's, or none."""

from pathlib import Path
from typing import get_args

import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor

from models.bundle import sha256
from models.errors import RecipeError
from training import output
from training.network.resnet import Network
from training.network.weight_names import differences, torchvision_names
from training.recipe import Arch, Recipe

Weights = tuple[str, str | None, str]
"""A description of the weights, the sha256 of their file, their licence."""


def start(recipe: Recipe, labels: int) -> tuple[Network, Weights]:
    """The initial network of a run, on the CPU, and what its weights are."""
    torch.manual_seed(recipe.seed)
    network = Network(recipe.arch, labels)
    return network, pretrain(network, recipe.arch, recipe.weights)


def pretrain(network: Network, arch: Arch, weights: str) -> Weights:
    """Load pretrained weights into all layers but the head.

    `weights`: imagenet, none, or a file (.pth, .safetensors) of torchvision, timm or transformers.
    Returns their description, the file's sha256 and their licence. Raises RecipeError if they
    cannot be loaded or belong to another architecture.
    """
    if weights == "none":
        return "none", None, "none"
    if weights == "imagenet":
        choice = torchvision.models.get_model_weights(arch)["DEFAULT"]
        try:
            state = choice.get_state_dict(check_hash=True, progress=output.shown())
        except Exception as error:  # a download fails in many ways, and so does unpickling
            raise RecipeError(
                f"--weights imagenet: {choice} cannot be downloaded from {choice.url} ({error});"
                " download it by other means and give --weights FILE, or use --weights none"
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
        raise RecipeError(f"--weights {weights} is not a state dict: it must map names to tensors")
    _load(network, state, weights, arch)
    return file.name, sha256(data), "unknown"


def _load(network: Network, state: dict[str, Tensor], name: str, arch: Arch) -> None:
    body = torchvision_names(state)
    if wrong := differences(network.resnet.state_dict(), body):
        fitting = [other for other in get_args(Arch) if not differences(_empty(other), body)]
        hint = f"; it fits {fitting[0]}: use --arch {fitting[0]}" if fitting else ""
        raise RecipeError(f"--weights {name} does not fit {arch}: {wrong}{hint}")
    network.resnet.load_state_dict(body, strict=False)


def _empty(arch: Arch) -> dict[str, Tensor]:
    """The names and shapes of an architecture's weights, without their numbers."""
    with torch.device("meta"):
        return dict(Network(arch, 1).resnet.state_dict())
