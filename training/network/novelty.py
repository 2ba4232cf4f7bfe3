"""Novelty: how far an image's features are from those of the training images.

Mahalanobis++ (Müller and Hein, 2025): the Mahalanobis distance of the pooled features, divided by
their length, to the nearest label's mean, with one covariance for all labels; multi-label, to the
mean of all images. The covariance has a few directions of its own and one variance for all others
(probabilistic PCA, Tipping and Bishop, 1999), so a ResNet-50's takes 0.5 MB and not 16.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from scipy.linalg import eigh
from torch import Tensor, nn

from models.errors import RunError
from models.manifest import Task

DIRECTIONS = 64
_LEAST_LENGTH = 1e-6  # of features that are all 0
_LEAST_VARIANCE = 1e-9  # of a feature, where a sum of all squares is 1


class Novelty(nn.Module):
    """Pooled features float32 `[N, F]` -> squared distance / F `[N]`, about 1 for a training image.

    With features x of length 1 minus the `centre` of all, each label's mean m, and the covariance's
    inverse P, the distance x P x - 2 x P m + m P m is `scale` |x|² - |x D|² - (x A - b).
    No node of the graph is an Add, a Gemm or a Relu: fp16 and int8 reduce those, and a distance
    needs float32. The least is taken last, as ONNX Runtime infers no shape from it for int8.
    """

    centre: Tensor  # [F]
    directions: Tensor  # D: [F, K]
    scale: Tensor  # []
    towards: Tensor  # A: [F, C]; a column of zeros for a multi-label network
    offsets: Tensor  # b: [C]

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        for name in self.__class__.__annotations__:
            self.register_buffer(name, tensors[name])

    def forward(self, features: Tensor) -> Tensor:
        length = (features * features).sum(1, keepdim=True).sqrt()
        x = features / length.clamp_min(_LEAST_LENGTH) - self.centre
        along = x @ self.directions
        own = (x * x).sum(1, keepdim=True) * self.scale - (along * along).sum(1, keepdim=True)
        return (own - (x @ self.towards - self.offsets)).amin(1)

    @torch.inference_mode()
    def of(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """The same on NumPy arrays, on the CPU."""
        found: NDArray[np.float32] = self(torch.from_numpy(features)).numpy()
        return found

    def file(self) -> bytes:
        """As a safetensors file."""
        return save({name: value.contiguous() for name, value in self.state_dict().items()})


def read(file: Path) -> Novelty:
    """What `Novelty.file` returned. RunError if the file is missing or corrupt."""
    try:
        return Novelty(load_file(file))
    except (OSError, SafetensorError, KeyError) as error:
        raise RunError(f"{file} is missing or corrupt") from error


def fit(
    features: NDArray[np.float32],
    targets: NDArray[np.bool_],
    task: Task,
    directions: int = DIRECTIONS,
) -> Novelty | None:
    """The novelty by the training images' pooled features `[N, F]` and targets `[N, C]`.

    directions: the most that the covariance has of its own; at least 1. None with fewer than two
    images more than there are means to estimate.
    """
    lengths = np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    x = features / np.maximum(lengths, _LEAST_LENGTH)
    centre = x.mean(0)
    x = x - centre
    labels = targets.argmax(1) if task == "single" else np.zeros(len(x), np.intp)
    known, labels = np.unique(labels, return_inverse=True)
    means = np.stack([x[labels == label].mean(0) for label in range(len(known))])
    free = len(x) - len(known)
    if free < 2:
        return None
    own, variances, rest = _covariance(x - means[labels], free, directions)
    count = x.shape[1]
    reduced = own * np.sqrt((1 / rest - 1 / variances) / count)
    towards = means.T / (rest * count) - reduced @ (reduced.T @ means.T)  # P m / F
    values = {
        "centre": centre,
        "directions": reduced,
        "scale": np.array(1 / (rest * count)),
        "towards": 2 * towards,
        "offsets": (means.T * towards).sum(0),
    }
    return Novelty({name: torch.from_numpy(value).float() for name, value in values.items()})


def _covariance(
    residuals: NDArray[np.float64], free: int, most: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """At most so many directions `[F, K]`, the variances along them `[K]`, and along all others.

    residuals: `[N, F]`, with `free` degrees of freedom. The sample covariance is shrunk towards
    equal variances, by as much as the number of images asks for (OAS, Chen et al., 2010).
    """
    count = residuals.shape[1]
    sample = residuals.T @ residuals / free
    largest = min(most, free - 1, count - 1)
    found, directions = eigh(sample, subset_by_index=(count - largest, count - 1))
    total = float(np.trace(sample))
    even = max(total / count, _LEAST_VARIANCE)
    squares = float((sample * sample).mean())
    enough = (free + 1) * (squares - even**2 / count)
    shrinkage = min(1.0, (squares + even**2) / enough) if enough > 0 else 1.0
    rest = max(total - float(found.sum()), 0.0) / (count - largest)
    rest = (1 - shrinkage) * rest + shrinkage * even
    variances = (1 - shrinkage) * found + shrinkage * even
    return directions, np.maximum(variances, rest), rest
