import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from models.bundle import sha256
from models.errors import RecipeError
from testkit import image_sets
from testkit.noise_images import network
from training.network.pretrained import pretrain, start
from training.network.resnet import Network

pytestmark = pytest.mark.usefixtures("real_networks")

HEAD = ("fc.weight", "fc.bias")


def imagenet_like(seed: int = 1) -> dict[str, Tensor]:
    """A state dict with a thousand outputs, as ImageNet weights have."""
    state = dict(network(1000, seed).resnet.state_dict())
    generator = torch.Generator().manual_seed(seed)
    for name, value in state.items():
        if value.is_floating_point():  # running statistics too
            state[name] = torch.rand(value.shape, generator=generator)
    return state


def refused(weights: Path | str, labels: int = 3) -> str:
    own = network(labels)
    before = {name: value.clone() for name, value in own.resnet.state_dict().items()}
    with pytest.raises(RecipeError) as caught:
        pretrain(own, "resnet18", str(weights))
    assert all(torch.equal(before[n], v) for n, v in own.resnet.state_dict().items())
    message = str(caught.value)
    assert message.startswith(f"--weights {weights}")
    assert "\n" not in message
    return message


def test_none_leaves_the_network_as_initialised() -> None:
    own = network()
    assert pretrain(own, "resnet18", "none") == ("none", None, "none")
    drawn = network().resnet.state_dict()
    assert all(torch.equal(drawn[n], value) for n, value in own.resnet.state_dict().items())


def check_loaded(own: Network, state: dict[str, Tensor]) -> None:
    """The body, statistics included, is the state's; the head is as initialised."""
    drawn = network().resnet.state_dict()
    for name, value in own.resnet.state_dict().items():
        if "num_batches_tracked" not in name:
            assert torch.equal(value, drawn[name] if name in HEAD else state[name]), name


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_of_weights_is_loaded_into_all_but_the_head(tmp_path: Path, suffix: str) -> None:
    state, file = imagenet_like(), tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(state, file)
    else:
        save_file(state, file)
    own = network()
    described = pretrain(own, "resnet18", str(file))
    assert described == (file.name, sha256(file.read_bytes()), "unknown")
    check_loaded(own, state)


def test_old_files_without_batch_counters_are_loaded(tmp_path: Path) -> None:
    """As torchvision's own for ResNet-18 and 34, which are older than these counters."""
    state = {k: v for k, v in imagenet_like().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    own = network()
    pretrain(own, "resnet18", str(tmp_path / "old.pth"))
    check_loaded(own, state)


def saved(file: Path, state: dict[str, Tensor]) -> Path:
    torch.save(state, file)
    return file


def test_weights_of_another_architecture_are_refused_with_the_one_that_fits(
    tmp_path: Path,
) -> None:
    file = saved(tmp_path / "deep.pth", torchvision.models.resnet34().state_dict())
    assert refused(file) == (
        f"--weights {file} does not fit resnet18: 80 keys unexpected: layer1.2.conv1.weight,"
        " layer1.2.bn1.weight, layer1.2.bn1.bias and 77 more; it fits resnet34: use --arch resnet34"
    )


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    state = imagenet_like() | {"conv1.weight": torch.zeros(64, 1, 7, 7)}
    file = saved(tmp_path / "grey.pth", state)
    assert refused(file) == (
        f"--weights {file} does not fit resnet18: 1 key of another shape: conv1.weight 64x1x7x7 in"
        " place of 64x3x7x7"
    )


def test_weights_that_lack_a_key_or_name_it_otherwise_are_refused(tmp_path: Path) -> None:
    state = imagenet_like()
    state["layer3.0.conv.weight"] = state.pop("layer3.0.conv1.weight")
    file = saved(tmp_path / "torn.pth", state)
    assert refused(file) == (
        f"--weights {file} does not fit resnet18: 1 key missing: layer3.0.conv1.weight; 1 key"
        " unexpected: layer3.0.conv.weight"
    )


def test_an_empty_file_of_weights_is_refused(tmp_path: Path) -> None:
    file = saved(tmp_path / "empty.pth", {})
    assert "102 keys missing" not in refused(file) and "keys missing: conv1.weight," in refused(
        file
    )


@pytest.mark.parametrize("content", [[torch.zeros(2)], torch.zeros(2), {"model": {}, "epoch": 3}])
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "other.pth")
    assert "is not a state dict" in refused(tmp_path / "other.pth")


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    torch.save(imagenet_like(), tmp_path / "torn.pth")
    whole = (tmp_path / "torn.pth").read_bytes()
    for name, content in (
        ("torn.pth", whole[: len(whole) // 2]),
        ("text.pth", b"weights"),
        ("text.safetensors", b"weights"),
        ("empty.pth", b""),
    ):
        (tmp_path / name).write_bytes(content)
        assert "neither imagenet, none nor a readable state dict" in refused(tmp_path / name)
    assert "readable state dict" in refused(tmp_path / "missing.pth")
    assert "readable state dict" in refused("ImageNet")


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("harm"),))


def test_a_file_that_would_run_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": Harmful()}, "harmful.pth")
    assert "readable state dict" in refused("harmful.pth")
    assert not Path("harm").exists()


def test_a_failed_download_of_imagenet_weights_names_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise socket.gaierror(-3, "no network in this test")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(socket, "create_connection", unreachable)
    message = refused("imagenet")
    assert "cannot be downloaded from" in message
    assert "no network in this test" in message
    assert "--weights FILE, or use --weights none" in message


def cached(folder: Path, content: bytes) -> None:
    """Put a file where torchvision keeps the weights that it downloaded."""
    url = torchvision.models.get_model_weights("resnet18")["DEFAULT"].url
    file = folder / "hub" / "checkpoints" / url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    file.write_bytes(content)


def test_imagenet_weights_that_were_downloaded_before_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    state = imagenet_like()
    torch.save(state, tmp_path / "downloaded.pth")
    cached(tmp_path, (tmp_path / "downloaded.pth").read_bytes())
    own = network()
    name, digest, licence = pretrain(own, "resnet18", "imagenet")
    assert (name, digest) == ("ResNet18_Weights.IMAGENET1K_V1", None)
    assert "BSD-3-Clause" in licence
    check_loaded(own, state)


def test_a_corrupt_download_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached(tmp_path, b"a login page")
    assert "use --weights none" in refused("imagenet")


def test_a_run_starts_from_the_recipe_s_weights_with_a_head_drawn_from_the_seed(
    tmp_path: Path,
) -> None:
    state, file = imagenet_like(), tmp_path / "weights.pth"
    torch.save(state, file)
    made = []
    for seed in (1, 1, 2):
        recipe = image_sets.recipe(weights=str(file), arch="resnet18", seed=seed)
        own, described = start(recipe, 5)
        assert described == (file.name, sha256(file.read_bytes()), "unknown")
        assert torch.equal(own.resnet.conv1.weight, state["conv1.weight"])
        made.append(own.resnet.fc.weight)
    first, again, other = made
    assert first.shape == (5, 512)
    assert torch.equal(first, again) and not torch.equal(first, other)
