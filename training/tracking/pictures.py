"""The report's pictures while a run is trained: the worst mistakes, where the network looked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from models.manifest import Task
from training.evaluation import calibration, error_analysis
from training.evaluation.decisions import decide
from training.network.inference import in_batches
from training.network.resnet import Network, Served
from training.reports import activation_maps

_THRESHOLD = 0.5  # of tags; the labels' own are fitted at the end
COUNT = 8


@dataclass(frozen=True)
class Picture:
    """image: uint8 `[S, 2 S, 3]`, the image and, right of it, the maps. words: what was wrong."""

    image: NDArray[np.uint8]
    words: str


@dataclass(frozen=True)
class Judged:
    """The validation images of a run in training, and its network.

    images_at: the images at some rows, uint8 `[n, S, S, 3]`. targets: `[N, C]`.
    """

    network: Network
    device: torch.device
    task: Task
    labels: Sequence[str]
    files: Sequence[str]
    targets: NDArray[np.bool_]
    images_at: Callable[[Sequence[int]], NDArray[np.uint8]]


def worst(judged: Judged, logits: NDArray[np.float32]) -> list[Picture]:
    """The wrongly predicted images with the highest loss, at most `COUNT`. logits: `[N, C]`.

    Leaves the network in evaluation mode.
    """
    task, labels = judged.task, judged.labels
    scores = calibration.probabilities(logits, task, 1.0)
    predicted = decide(scores, [_THRESHOLD] * len(labels) if task == "multi" else None)
    found = error_analysis.top_losses(scores, predicted, judged.targets, task, COUNT)
    if not found:
        return []
    images = judged.images_at([mistake.row for mistake in found])
    served = Served(judged.network, task, 1.0).eval()
    maps = in_batches(lambda batch: served(batch)[1], torch.from_numpy(images), judged.device)
    pictures = []
    for mistake, image, of_image in zip(found, images, maps, strict=True):
        words = [
            f"{kind} {labels[label]} {scores[mistake.row, label]:.3f}"
            for kind, label in (("predicted", mistake.predicted), ("true", mistake.true))
            if label is not None
        ]
        both = np.concatenate([image, activation_maps.of_mistake(image, of_image, mistake)], 1)
        pictures.append(Picture(both, f"{judged.files[mistake.row]}: {', '.join(words)}"))
    return pictures
