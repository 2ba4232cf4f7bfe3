"""How good a network or a bundle is on images, decided exactly as serving decides."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from models import bundle
from models.bundle import write_atomically
from models.decision import above, rank
from models.errors import DataError
from models.golden import Runner
from models.manifest import Baseline, Metric, Preprocess, Task
from models.store import Store
from training import calibrate, metrics, pictures, run, runtime
from training.data import Dataset
from training.metrics import Figures
from training.network import Network
from training.split import Item

METRICS_FILE = "metrics.json"
PREDICTIONS_FILE = "predictions.csv"
HEADLINE: dict[Task, str] = {"single": "error", "multi": "map"}
_BATCH = 64
_CONFIDENCE_BINS = 20
_CONFIDENCE_EDGES = tuple((edge + 1) / _CONFIDENCE_BINS for edge in range(_CONFIDENCE_BINS))


@dataclass(frozen=True)
class Model:
    """A run or a bundle, ready to be measured; `run` as in `models.golden.Runner`."""

    task: Task
    labels: tuple[str, ...]
    thresholds: tuple[float, ...] | None
    preprocess: Preprocess
    trained_on: frozenset[str]
    run: Runner


def load(model: str, device: torch.device) -> Model:
    """The model in the folder `model` (a run or a bundle) or called so in the store.

    A run's network runs on `device`, a bundle on the CPU. Raises RunError, BundleError.
    """
    path = Path(model)
    if (path / run.RUN_FILE).exists():
        finished = run.read(path)
        outcome, network = finished.outcome, finished.network().to(device)

        def scores_of(images: NDArray[np.uint8]) -> NDArray[np.float32]:
            logits = logits_of(network, torch.from_numpy(images), device)
            return calibrate.probabilities(logits, outcome.task, outcome.temperature)

        return Model(
            outcome.task,
            outcome.labels,
            outcome.thresholds,
            outcome.preprocess,
            frozenset(item.sha256 for item in finished.items if not item.is_valid),
            scores_of,
        )
    found = bundle.read(path if path.is_dir() else Store().path(model))
    manifest = found.manifest
    return Model(
        manifest.task,
        manifest.labels,
        manifest.thresholds,
        manifest.preprocess,
        frozenset(found.files[manifest.training_images].decode().split()),
        runtime.runner(found.model, manifest.tensors),
    )


def evaluate(model: Model, dataset: Dataset, folder: Path) -> str:
    """Measure the model as it is shipped on the images it was not trained on.

    Writes `metrics.json` and `predictions.csv` into `folder` and returns the figures for a
    person. Raises DataError if no image is left or a label is not the model's.
    """
    files = [dataset.root / example.file for example in dataset.examples]
    kept = [
        (file, Item(example.file, sha256, example.labels, True))
        for file, example, sha256 in zip(
            files, dataset.examples, pictures.hashes(files), strict=True
        )
        if sha256 not in model.trained_on
    ]
    left_out = len(files) - len(kept)
    if not kept:
        raise DataError(f"the model was trained on all {left_out} images: nothing to measure")
    items = [item for _, item in kept]
    targets = truth([item.labels for item in items], model.labels)
    scores = model.run(pictures.served([file for file, _ in kept], model.preprocess).numpy())
    tags = decide(scores, model.thresholds)
    measured = metrics.with_intervals(figures(model.task, scores, tags, targets), len(scores))
    write(folder, measured, scores, items, model.labels)
    return (
        f"{len(kept)} images, {left_out} left out that it was trained on;"
        f" value and 95 % interval:\n{table(measured)}"
    )


def truth(labels_of_images: Sequence[Sequence[str]], labels: Sequence[str]) -> NDArray[np.bool_]:
    """Which image has which label: `[N, C]`. DataError on a label that is not the model's."""
    column = {label: number for number, label in enumerate(labels)}
    targets = np.zeros((len(labels_of_images), len(labels)), np.bool_)
    for row, names in enumerate(labels_of_images):
        for name in names:
            if name not in column:
                raise DataError(f"the model has no label {name!r}; it has {', '.join(labels)}")
            targets[row, column[name]] = True
    if not targets.any():
        raise DataError(f"none of the {len(targets)} images has a label: nothing to go by")
    return targets


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


def figures(
    task: Task, scores: NDArray[np.float32], tags: NDArray[np.bool_], targets: NDArray[np.bool_]
) -> Figures:
    """The task's figures; targets as `truth` gives them; tags count for multi-label only."""
    if task == "single":
        return metrics.single_label(scores, targets.argmax(1))
    return metrics.multi_label(scores, targets, tags)


def decide(scores: NDArray[np.float32], thresholds: Sequence[float] | None) -> NDArray[np.bool_]:
    """What a model says `[N, C]`: the labels at their thresholds, or the likeliest alone."""
    if thresholds is not None:
        return above(scores, thresholds)
    return np.eye(scores.shape[1], dtype=np.bool_)[rank(scores)[:, 0]]


def baseline(scores: NDArray[np.float32], said: NDArray[np.bool_]) -> Baseline:
    """The reference for drift: how often each label is said, and how confidently."""
    bins = np.searchsorted(_CONFIDENCE_EDGES, scores.max(1))
    counts = np.bincount(np.minimum(bins, _CONFIDENCE_BINS - 1), minlength=_CONFIDENCE_BINS)
    return Baseline(
        label_share=tuple(said.mean(0).tolist()),
        confidence_edges=_CONFIDENCE_EDGES,
        confidence_counts=tuple(counts.tolist()),
    )


def write(
    folder: Path,
    measured: dict[str, Metric],
    scores: NDArray[np.float32],
    items: Sequence[Item],
    labels: Sequence[str],
) -> None:
    """`metrics.json`, and `predictions.csv` with the columns path, target and one a label."""
    values = {name: metric.model_dump() for name, metric in measured.items()}
    text = json.dumps({"images": len(items), **values}, indent=2)
    write_atomically(folder / METRICS_FILE, text.encode())
    lines = io.StringIO(newline="")
    writer = csv.writer(lines)
    writer.writerow(["path", "target", *labels])
    for item, row in zip(items, scores, strict=True):
        writer.writerow([item.file, " ".join(item.labels), *row.tolist()])
    write_atomically(folder / PREDICTIONS_FILE, lines.getvalue().encode())


def table(measured: dict[str, Metric]) -> str:
    """The figures for a person: value and 95 % interval, a line each."""
    return "\n".join(
        f"  {name:22}{metric.value:.4f}   [{metric.low:.4f}, {metric.high:.4f}]"
        for name, metric in measured.items()
    )
