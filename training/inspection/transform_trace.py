"""What happens to one image on its way to the scores, step by step, with real numbers."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from models.manifest import Task
from models.preprocess import TRAINING_FORMATS, image_format
from training.data import decoding
from training.data.augment import augment, draw
from training.evaluation import calibration
from training.network.resnet import Network
from training.recipe import Recipe


@torch.inference_mode()
def steps(file: Path, recipe: Recipe, task: Task, labels: int) -> list[tuple[str, str]]:
    """The name and the output of each step, first in training and then as served.

    The network is the recipe's, untrained: shapes and ranges are right, scores are not meaningful.
    """
    data = file.read_bytes()
    generator = torch.Generator().manual_seed(recipe.seed)
    squares, shapes = decoding.presized([file], recipe.presize_px)
    views = augment(squares, shapes, draw(1, generator), recipe)
    served = torch.from_numpy(decoding.decode(data, recipe.preprocess).copy())[None]
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        network = Network(recipe.arch, labels).eval()
    of_views, of_served = (
        _through(network, images) for images in (views, served.permute(0, 3, 1, 2).float())
    )
    scores = calibration.probabilities(of_served[1].numpy(), task, 1.0)
    width, height = shapes[0].tolist()
    return [
        ("file", f"{len(data):,} bytes, {image_format(data, TRAINING_FORMATS)}"),
        ("decoded", _image(decoding.load(data, recipe.presize_px))),
        ("presized", f"{_tensor(squares)}; original shape {width:.2f} : {height:.2f}"),
        ("augmented", _tensor(views)),
        ("normalised", f"{_tensor(of_views[0])}; inside the network"),
        ("logits", _tensor(of_views[1])),
        ("served", f"{_tensor(served)}; from the file, by the service's own decoder"),
        ("normalised", _tensor(of_served[0])),
        ("logits", _tensor(of_served[1])),
        ("scores", _tensor(torch.from_numpy(scores))),
    ]


def _through(network: Network, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return (images - network.mean) / network.deviation, network(images)


def _image(image: Image.Image) -> str:
    pixels = np.asarray(image)
    return f"{pixels.dtype} {image.mode} {image.width} x {image.height}, {_span(pixels)}"


def _tensor(values: torch.Tensor) -> str:
    kind = str(values.dtype).removeprefix("torch.")
    return f"{kind} {list(values.shape)}, {_span(values.numpy())}"


def _span(values: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]") -> str:
    low, high = float(values.min()), float(values.max())
    return f"{low:.4g} to {high:.4g}"
