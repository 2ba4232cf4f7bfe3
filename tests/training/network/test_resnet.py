from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor

from models.manifest import Task
from testkit.noise_images import network, pixels
from training.network.resnet import Served

pytestmark = pytest.mark.usefixtures("real_networks")


def test_features_and_logits_have_the_promised_shapes() -> None:
    images = pixels(2).permute(0, 3, 1, 2).float()
    own = network(5)
    features = own.features(images)
    assert features.shape == (2, 512, 2, 2)
    assert own.logits(features).shape == (2, 5)
    assert torch.equal(own(images), own.logits(features))


def test_the_network_is_torchvision_s_on_normalised_images() -> None:
    images = pixels(2).permute(0, 3, 1, 2).float()
    own = network(5)
    peer = torchvision.models.resnet18(num_classes=5).eval()
    peer.load_state_dict(own.resnet.state_dict())
    mean, deviation = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    normalised = torchvision.transforms.functional.normalize(images / 255, mean, deviation)
    torch.testing.assert_close(own(images), peer(normalised), rtol=1e-4, atol=1e-5)


def test_the_blocks_hold_every_weight_once_from_stem_to_head() -> None:
    own = network()
    inside = [id(weight) for block in own.blocks for weight in block.parameters()]
    assert sorted(inside) == sorted(id(weight) for weight in own.parameters())
    assert own.blocks[-1] is own.resnet.fc
    assert next(own.blocks[0].parameters()) is own.resnet.conv1.weight


def test_a_new_head_prefers_no_label_by_its_bias() -> None:
    assert network(4).resnet.fc.bias.tolist() == [0, 0, 0, 0]


def test_served_scores_of_a_single_label_model_sum_to_one() -> None:
    images = pixels(4)
    own = network()
    scores, _ = Served(own, "single", 0.5)(images)
    logits = own(images.permute(0, 3, 1, 2).float())
    assert scores.shape == (4, 3)
    torch.testing.assert_close(scores.sum(1), torch.ones(4))
    torch.testing.assert_close(scores, torch.softmax(logits / 0.5, 1))


def test_served_scores_of_a_multi_label_model_are_sigmoids() -> None:
    images = pixels(4)
    own = network()
    scores, _ = Served(own, "multi", 2.0)(images)
    logits = own(images.permute(0, 3, 1, 2).float())
    torch.testing.assert_close(scores, 1 / (1 + torch.exp(-logits / 2)))


@pytest.mark.parametrize(
    ("task", "to_logits"),
    [("single", torch.log), ("multi", torch.logit)],
)
def test_the_mean_of_a_map_is_the_image_s_logit(
    task: Task, to_logits: Callable[[Tensor], Tensor]
) -> None:
    own = network()
    torch.nn.init.uniform_(own.resnet.fc.bias, -1, 1)
    scores, maps = Served(own, task, 0.25)(pixels(3, side_px=96))
    assert maps.shape == (3, 3, 3, 3)
    assert maps.std((2, 3)).min() > 1e-3
    means, logits = maps.mean((2, 3)), to_logits(scores)
    if task == "single":  # softmax determines logits up to one constant per image
        means, logits = (x - x.mean(1, keepdim=True) for x in (means, logits))
    torch.testing.assert_close(means, logits, rtol=1e-4, atol=1e-4)
