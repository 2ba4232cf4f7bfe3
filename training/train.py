"""`train`: from DATA to a complete run, in the order the data flows."""

import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from models.errors import DataError
from models.manifest import Preprocess, Task
from training import calibrate, data, evaluate, metrics, pictures, run, split
from training.fine_tune import Epoch, Pictures, fine_tune, loss_of, precision
from training.network import Network, pretrain
from training.recipe import Recipe, pick_device

_PRESIZE = 1.25  # side of a cached picture / side of the network's input


def train(recipe: Recipe, out: Path | None) -> Path:
    """Fine-tune as the recipe says; the folder of the complete run.

    Errors: RecipeError, DataError, RunError.
    """
    device = pick_device(recipe.device)
    dataset = data.read(recipe.data, recipe.pattern, recipe.images, recipe.task)
    task, labels = dataset.task, dataset.labels
    if len(labels) < (2 if task == "single" else 1):
        raise DataError(
            f"{recipe.data} has {len(labels)} labels ({', '.join(labels)}); a single-label task"
            " needs two or more, --task multi one or more"
        )
    recipe = recipe.model_copy(update={"task": task})
    files = [dataset.root / example.file for example in dataset.examples]
    items = split.split(dataset, pictures.hashes(files), recipe.valid, recipe.seed)
    held_out = [item.is_valid for item in items]
    print(
        f"{len(items)} images, {len(labels)} labels, {task}-label:"
        f" {held_out.count(False)} to train on, {held_out.count(True)} held out"
    )

    torch.manual_seed(recipe.seed)
    network = Network(recipe.arch, len(labels))
    weights = pretrain(network, recipe.arch, recipe.weights)
    network.to(memory_format=torch.channels_last).to(device)
    path = run.create(out)
    print(f"{recipe.arch} from weights {weights[0]}, on {device} -> {path}")

    targets, valid_targets = (
        evaluate.truth([item.labels for item in items if item.is_valid is side], labels)
        for side in (False, True)
    )
    preprocess = Preprocess(image_size_px=recipe.image_size, crop_fraction=recipe.crop_fraction)
    valid_images = pictures.served(_only(files, held_out, True), preprocess)
    pixels, shapes = pictures.presized(
        _only(files, held_out, False), round(recipe.image_size * _PRESIZE)
    )
    learned = _loss_targets(targets, task)
    run.write_start(path, recipe, items)
    started = time.perf_counter()

    def after_epoch(epoch: Epoch) -> None:
        with precision(device):
            logits = evaluate.logits_of(network, valid_images, device)
        valid_loss = loss_of(torch.from_numpy(logits), _loss_targets(valid_targets, task), task)
        line = {
            "phase": epoch.phase,
            "epoch": epoch.epoch,
            "train_loss": round(epoch.train_loss, 5),
            "valid_loss": round(float(valid_loss), 5),
            evaluate.HEADLINE[task]: round(_headline(logits, valid_targets, task), 5),
            "images_per_s": round(epoch.images_per_s, 1),
            "seconds": round(time.perf_counter() - started, 1),
        }
        run.append_epoch(path, line)
        print("  ".join(f"{name} {value}" for name, value in line.items()))

    fine_tune(network, Pictures(pixels, shapes, learned), task, recipe, device, after_epoch)

    logits = evaluate.logits_of(network, valid_images, device)
    scores, tags = calibrate.cross_fitted(logits, valid_targets, task)
    figures = evaluate.figures(task, scores, tags, valid_targets)
    measured = metrics.with_intervals(figures, len(scores))
    valid_items = [item for item in items if item.is_valid]
    evaluate.write(path, measured, scores, valid_items, labels)
    temperature = calibrate.fit_temperature(logits, valid_targets, task)
    shipped = calibrate.probabilities(logits, task, temperature)
    thresholds = calibrate.fit_thresholds(shipped, valid_targets) if task == "multi" else None
    outcome = run.Outcome(
        task=task,
        arch=recipe.arch,
        labels=labels,
        temperature=temperature,
        thresholds=thresholds,
        preprocess=preprocess,
        metrics=measured,
        baseline=evaluate.baseline(shipped, evaluate.decide(shipped, thresholds)),
        provenance=run.provenance(recipe, items, weights),
    )
    run.write_end(path, network, outcome)
    print(
        f"{len(valid_items)} held-out images, value and 95 % interval:\n{evaluate.table(measured)}"
    )
    return path


def _only(files: list[Path], held_out: list[bool], side: bool) -> list[Path]:
    return [file for file, is_valid in zip(files, held_out, strict=True) if is_valid is side]


def _loss_targets(targets: NDArray[np.bool_], task: Task) -> torch.Tensor:
    """What `loss_of` takes, from bools `[N, C]`."""
    learned = torch.from_numpy(targets)
    return learned.int().argmax(1) if task == "single" else learned.float()


def _headline(logits: NDArray[np.float32], targets: NDArray[np.bool_], task: Task) -> float:
    if task == "single":
        return float((logits.argmax(1) != targets.argmax(1)).mean())
    return float(np.nanmean(metrics.label_precisions(logits, targets)))
