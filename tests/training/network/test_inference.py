import numpy as np
import torch
from torch import Tensor

from testkit.noise_images import network, pixels
from training.network import inference

CPU = torch.device("cpu")


def test_logits_of_many_images_are_those_of_each_in_order() -> None:
    """67: more than a batch, and not a multiple of it."""
    own, images = network(), pixels(67, 32)
    found = inference.logits_of(own, images, CPU)
    with torch.inference_mode():
        one_by_one = torch.cat([own(one[None].permute(0, 3, 1, 2).float()) for one in images])
    assert found.shape == (67, 3) and found.dtype == np.float32
    np.testing.assert_allclose(found, one_by_one.numpy(), rtol=1e-4, atol=1e-4)


def test_a_network_in_training_mode_is_put_into_evaluation_mode() -> None:
    """Its norms neither use the batch nor are updated by it."""
    own, images = network(), pixels(8, 32)
    expected = inference.logits_of(own, images, CPU)
    state = {name: value.clone() for name, value in own.resnet.state_dict().items()}
    own.train()
    assert np.array_equal(inference.logits_of(own, images, CPU), expected)
    assert all(torch.equal(state[n], value) for n, value in own.resnet.state_dict().items())


def test_at_most_64_images_are_on_the_device_at_once_and_outputs_are_float32() -> None:
    sizes: list[int] = []

    def means(batch: Tensor) -> Tensor:
        assert torch.is_inference_mode_enabled()
        sizes.append(len(batch))
        return batch.double().mean((1, 2, 3))[:, None]

    images = pixels(130, 4)
    found = inference.in_batches(means, images, CPU)
    assert sizes == [64, 64, 2]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, 0], images.double().mean((1, 2, 3)).numpy(), rtol=1e-6)
