"""A run or a bundle, ready to be measured."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from models import bundle
from models.golden import Runner
from models.manifest import Preprocess, Provenance, Task
from models.store import Store
from training import run_folder
from training.evaluation import calibration, onnx_session
from training.network.resnet import Network, Served
from training.run_folder import Run

_BATCH = 64
Look = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""images uint8 `[N, S, S, 3]` -> maps float32 `[N, C, h, w]`, each position's own logits."""


@dataclass(frozen=True)
class Model:
    """`run` and `look` take images as `preprocess` makes them; `look` is None without maps."""

    name: str
    task: Task
    labels: tuple[str, ...]
    thresholds: tuple[float, ...] | None
    temperature: float
    preprocess: Preprocess
    trained_on: frozenset[str]
    provenance: Provenance
    run: Runner
    look: Look | None


def load(model: str, device: torch.device, store: Store | None = None) -> Model:
    """The model in the folder `model` (a run or a bundle) or called so in the store.

    A run's network runs on `device`, a bundle on the CPU. Raises RunError, BundleError.
    """
    path = Path(model)
    if (path / run_folder.RUN_FILE).exists():
        return of_run(run_folder.read(path), device)
    return _of_bundle(path if path.is_dir() else (store or Store()).path(model))


def of_run(finished: Run, device: torch.device) -> Model:
    outcome, network = finished.outcome, finished.network().to(device)

    def scores_of(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits = logits_of(network, torch.from_numpy(images), device)
        return calibration.probabilities(logits, outcome.task, outcome.temperature)

    return Model(
        str(finished.path),
        outcome.task,
        outcome.labels,
        outcome.thresholds,
        outcome.temperature,
        outcome.preprocess,
        frozenset(item.sha256 for item in finished.items if not item.is_valid),
        outcome.provenance,
        scores_of,
        _looking(network, outcome.task, outcome.temperature, device),
    )


@torch.inference_mode()
def logits_of(network: Network, images: torch.Tensor, device: torch.device) -> NDArray[np.float32]:
    """images uint8 `[N, S, S, 3]` -> logits `[N, C]`, in float32 without TF32."""
    network.eval()
    batches = []
    with torch.backends.cudnn.flags(allow_tf32=False):
        for batch in tqdm(
            torch.split(images, _BATCH), "evaluating", unit=" batches", leave=False, disable=None
        ):
            pixels = batch.to(device).permute(0, 3, 1, 2).float()
            batches.append(network(pixels).float().cpu())
    return torch.cat(batches).numpy()


def _of_bundle(path: Path) -> Model:
    found = bundle.read(path)
    manifest = found.manifest
    scores_of, look = onnx_session.runners(found.model, manifest.tensors)
    return Model(
        f"{manifest.name}:{manifest.version}",
        manifest.task,
        manifest.labels,
        manifest.thresholds,
        manifest.temperature,
        manifest.preprocess,
        frozenset(found.files[manifest.training_images].decode().split()),
        manifest.provenance,
        scores_of,
        look,
    )


def _looking(network: Network, task: Task, temperature: float, device: torch.device) -> Look:
    served = Served(network, task, temperature).eval()

    @torch.inference_mode()
    def look(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        batches = torch.split(torch.from_numpy(images).to(device), _BATCH)
        return torch.cat([served(batch)[1].cpu() for batch in batches]).numpy()

    return look
