"""`train`: from DATA to a complete run, in the order the data flows."""

import copy
import sys
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.errors import RunError
from models.manifest import Preprocess, Task
from training import (
    calibrate,
    checkpoint,
    data,
    evaluate,
    lr_find,
    metrics,
    pictures,
    prepare,
    ranks,
    run,
)
from training.batches import Training
from training.checkpoint import Checkpoint, Progress
from training.data import Dataset
from training.fine_tune import DivergedError, Epoch, FineTuning, loss_of, precision
from training.network import Network
from training.ranks import Ranks
from training.recipe import Recipe, pick_device
from training.split import Item


def train(recipe: Recipe, out: Path | None) -> Path:
    """Fine-tune as the recipe says; the folder of the complete run.

    Errors: RecipeError, DataError, RunError.
    """
    with ranks.joined(pick_device(recipe.device)) as all_ranks:
        dataset, items, recipe = prepare.read(recipe)
        network, weights = prepare.start(recipe, len(dataset.labels))
        path = Path(all_ranks.agree(str(run.create(out)) if all_ranks.first else ""))
        with run.held(path, all_ranks.first):
            print(f"{recipe.arch} from weights {weights[0]}, on {all_ranks.device} -> {path}")
            network.to(memory_format=torch.channels_last).to(all_ranks.device)
            training = prepare.training_of(dataset, items, recipe, all_ranks.device)
            if recipe.lr == "auto":
                trial = FineTuning(
                    copy.deepcopy(network), training, dataset.task, recipe, all_ranks
                )
                recipe = lr_find.with_found_rate(trial)
            if all_ranks.first:
                run.write_start(path, recipe, items, run.provenance(recipe, items, weights))
                checkpoint.write(path, Progress(), network)
            return _fit(path, recipe, dataset, items, training, network, None, all_ranks)


def resume(path: Path) -> Path:
    """Go on with a run that was stopped, as if it had not been: on a CPU bit for bit.

    Raises RunError if there is nothing to go on with, or the images are not what they were.
    """
    recipe, items = run.read_start(path)
    with ranks.joined(pick_device(recipe.device)) as all_ranks, run.held(path, all_ranks.first):
        dataset = data.read_as(run.own_quarantine(path, recipe))
        files = [dataset.root / example.file for example in dataset.examples]
        hashes = pictures.hashes(files)
        found = {(e.file, h, e.labels) for e, h in zip(dataset.examples, hashes, strict=True)}
        known = {(item.file, item.sha256, item.labels) for item in items}
        if changed := sorted({file for file, *_ in found ^ known}):
            raise RunError(
                f"{len(changed)} images of {recipe.data} are not what they were when {path} began,"
                f" among them {changed[0]}: other images need a new run"
            )
        start = checkpoint.read(path)
        if start is None:
            raise RunError(f"{path} has no whole checkpoint: start a new run")
        torch.set_num_threads(start.progress.threads)
        print(f"going on with {path} after step {start.progress.step}")
        network = Network(recipe.arch, len(dataset.labels))
        network.to(memory_format=torch.channels_last).to(all_ranks.device)
        training = prepare.training_of(dataset, items, recipe, all_ranks.device)
        return _fit(path, recipe, dataset, items, training, network, start, all_ranks)


def _fit(
    path: Path,
    recipe: Recipe,
    dataset: Dataset,
    items: list[Item],
    training: Training,
    network: Network,
    start: Checkpoint | None,
    all_ranks: Ranks,
) -> Path:
    device, task, labels = all_ranks.device, dataset.task, dataset.labels
    if all_ranks.count > 1 and device.type == "cuda" and recipe.norms_by_batch:
        nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    valid_items = [item for item in items if item.is_valid]
    valid_targets = evaluate.truth([item.labels for item in valid_items], labels)
    preprocess = Preprocess(image_size_px=recipe.image_size, crop_fraction=recipe.crop_fraction)
    mine = all_ranks.share(torch.arange(len(valid_items))).tolist()
    valid_files = [dataset.root / valid_items[row].file for row in mine]
    valid_images = pictures.served(valid_files, preprocess)
    tuning = FineTuning(network, training, task, recipe, all_ranks)
    started = time.perf_counter()
    told: set[str] = set()

    def evaluated() -> NDArray[np.float32]:
        logits = evaluate.logits_of(network, valid_images, device)
        return all_ranks.gather(torch.from_numpy(logits)).numpy()

    def after_epoch(epoch: Epoch, progress: Progress) -> None:
        with precision(device):
            logits = evaluated()
        valid_loss = loss_of(
            torch.from_numpy(logits), prepare.loss_targets(valid_targets, task), task
        )
        line = {
            "phase": epoch.phase,
            "epoch": epoch.epoch,
            "train_loss": round(epoch.train_loss, 5),
            "valid_loss": round(float(valid_loss), 5),
            evaluate.HEADLINE[task]: round(_headline(logits, valid_targets, task), 5),
            "images_per_s": round(epoch.images_per_s, 1),
            "seconds": round(time.perf_counter() - started, 1),
        }
        progress.epochs.append(line)
        if all_ranks.first:
            if recipe.early_stop and _best(progress, task) == len(progress.epochs) - 1:
                checkpoint.write_best(path, network)
            run.write_epochs(path, progress.epochs)
            run.write_curves(path, tuning.curve(progress))
            print("  ".join(f"{name} {value}" for name, value in line.items()))
            if epoch.phase not in told:
                told.add(epoch.phase)
                print(epoch.stages.verdict())

    def save(progress: Progress, optimizer: torch.optim.Optimizer) -> None:
        checkpoint.write(path, progress, network, optimizer)

    def enough(progress: Progress) -> bool:
        since = len(progress.epochs) - 1 - _best(progress, task)
        return recipe.early_stop is not None and since >= recipe.early_stop

    try:
        tuning.run(start, after_epoch, save, enough)
    except DivergedError as error:
        (path / run.DIVERGED_FILE).write_text("\n".join(error.files) + "\n", encoding="utf-8")
        raise
    except KeyboardInterrupt:
        print(f"stopped; go on with: python -m training train --resume {path}", file=sys.stderr)
        raise

    if recipe.early_stop:
        all_ranks.agree("")  # the first process may still be writing it
        checkpoint.restore_best(path, network)
    logits = evaluated()
    if all_ranks.first:
        _conclude(path, dataset, valid_items, logits, network, recipe, preprocess)
    return path


def _conclude(
    path: Path,
    dataset: Dataset,
    valid_items: list[Item],
    logits: NDArray[np.float32],
    network: Network,
    recipe: Recipe,
    preprocess: Preprocess,
) -> None:
    """Measure, calibrate, and write what makes the run complete."""
    task, labels = dataset.task, dataset.labels
    targets = evaluate.truth([item.labels for item in valid_items], labels)
    scores, tags = calibrate.cross_fitted(logits, targets, task)
    figures = evaluate.figures(task, scores, tags, targets)
    measured = metrics.with_intervals(figures, len(scores))
    evaluate.write(path, measured, scores, valid_items, labels)
    temperature = calibrate.fit_temperature(logits, targets, task)
    shipped = calibrate.probabilities(logits, task, temperature)
    thresholds = calibrate.fit_thresholds(shipped, targets) if task == "multi" else None
    outcome = run.Outcome(
        task=task,
        arch=recipe.arch,
        labels=labels,
        temperature=temperature,
        thresholds=thresholds,
        preprocess=preprocess,
        metrics=measured,
        baseline=evaluate.baseline(shipped, evaluate.decide(shipped, thresholds)),
        provenance=run.read_provenance(path),
    )
    run.write_end(path, network, outcome)
    checkpoint.remove(path)
    print(
        f"{len(valid_items)} held-out images, value and 95 % interval:\n{evaluate.table(measured)}"
    )


def _best(progress: Progress, task: Task) -> int:
    """The place of the epoch with the best held-out figure, the first of equals; 0 of none."""
    sign = 1 if task == "single" else -1
    figures = [sign * epoch[evaluate.HEADLINE[task]] for epoch in progress.epochs]
    return int(np.argmin(figures)) if figures else 0


def _headline(logits: NDArray[np.float32], targets: NDArray[np.bool_], task: Task) -> float:
    if task == "single":
        return float((logits.argmax(1) != targets.argmax(1)).mean())
    return float(np.nanmean(metrics.label_precisions(logits, targets)))
