import numpy as np

from models.bundle import Bundle
from training.evaluation import onnx_session


def test_the_runner_takes_more_images_than_fit_into_a_batch(bundle: Bundle) -> None:
    images = np.random.default_rng(0).integers(0, 256, (70, 32, 32, 3), dtype=np.uint8)
    run = onnx_session.runner(bundle.model, bundle.manifest.tensors)
    alone = np.concatenate([run(image[None]) for image in images])
    np.testing.assert_allclose(run(images), alone, atol=1e-5)
