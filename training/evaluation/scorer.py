"""A run or a bundle, loaded for evaluation."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from models import bundle, conformal
from models.conformal import HeldOut
from models.manifest import Metric, Preprocess, Provenance, Task
from models.outputs import Answerer, Outputs
from models.signing.signature import Trust
from models.store import default_trust
from training.evaluation import calibration, onnx_session
from training.network.inference import features_and_logits_of, in_batches
from training.network.novelty import Novelty
from training.network.resnet import Network, Served
from training.run_folder import Outcome, Run

Maps = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""images uint8 `[N, S, S, 3]` -> maps float32 `[N, C, h, w]`, each position's own logits."""


@dataclass(frozen=True)
class Scorer:
    """The model of a run or a bundle. `answer` and `maps` take images preprocessed by `preprocess`;
    `maps` is None if the network has none; `metrics` are those of its validation images, and
    `held_out` the values of those, None if it has none."""

    name: str
    task: Task
    labels: tuple[str, ...]
    thresholds: tuple[float, ...] | None
    temperature: float
    preprocess: Preprocess
    metrics: Mapping[str, Metric]
    trained_on: frozenset[str]
    provenance: Provenance
    answer: Answerer
    maps: Maps | None
    held_out: HeldOut | None = None

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """images uint8 `[N, S, S, 3]` -> scores `[N, C]`."""
        return self.answer(images).scores


def load(model: Run | Path, device: torch.device) -> Scorer:
    """The model of a run, or of the bundle in a folder.

    A run's network runs on `device`, a bundle on the CPU. Raises RunError, BundleError.
    """
    return of_run(model, device) if isinstance(model, Run) else _of_bundle(model)


def of_run(finished: Run, device: torch.device) -> Scorer:
    trained_on = (record.sha256 for record in finished.split.train)
    return of_network(
        finished.network(),
        str(finished.path),
        finished.outcome,
        trained_on,
        device,
        finished.novelty(),
        finished.held_out(),
    )


def of_network(
    network: Network,
    name: str,
    outcome: Outcome,
    trained_on: Iterable[str],
    device: torch.device,
    novelty: Novelty | None = None,
    held_out: HeldOut | None = None,
) -> Scorer:
    """A trained network with its run's outcome. trained_on: sha256 of the training images."""
    network.to(device)
    served = Served(network, outcome.task, outcome.temperature).eval()

    def answer(images: NDArray[np.uint8]) -> Outputs:
        features, logits = features_and_logits_of(network, torch.from_numpy(images), device)
        scores = calibration.probabilities(logits, outcome.task, outcome.temperature)
        return Outputs(scores, None if novelty is None else novelty.of(features))

    def maps_of(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return in_batches(lambda batch: served(batch)[1], torch.from_numpy(images), device)

    return Scorer(
        name,
        outcome.task,
        outcome.labels,
        outcome.thresholds,
        outcome.temperature,
        outcome.preprocess,
        outcome.metrics,
        frozenset(trained_on),
        outcome.provenance,
        answer,
        maps_of,
        held_out,
    )


def _of_bundle(path: Path) -> Scorer:
    keys = default_trust()
    found = bundle.read(path, Trust(keys) if keys else None)
    manifest = found.manifest
    answer, maps_of = onnx_session.answers(found.model, manifest.tensors)
    return Scorer(
        f"{manifest.name}:{manifest.version}",
        manifest.task,
        manifest.labels,
        manifest.thresholds,
        manifest.temperature,
        manifest.preprocess,
        manifest.metrics,
        frozenset(found.files[manifest.training_images].decode().split()),
        manifest.provenance,
        answer,
        maps_of,
        conformal.held_out(found, "fp32"),
    )
