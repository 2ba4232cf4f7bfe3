"""`train`: from DATA to a complete run, in the order the data flows."""

import copy
import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from models.errors import RunError
from training import distributed, run_folder
from training.data import datasets, decoding, prepare
from training.data.datasets import Dataset
from training.data.split import Item
from training.distributed import Ranks
from training.evaluation import calibration, evaluate, scorer
from training.evaluation.evaluate import Evaluation
from training.fine_tuning import checkpoint, lr_finder
from training.fine_tuning.batches import Training
from training.fine_tuning.checkpoint import Checkpoint, Progress
from training.fine_tuning.trainer import DivergedError, FineTuning, check_processes
from training.fine_tuning.validation import HeldOut, Watch
from training.hardware import pick_device, pick_dtype
from training.network.resnet import Network
from training.provenance import provenance
from training.recipe import Recipe
from training.reports import html_report
from training.run_folder import Run


def train(recipe: Recipe, out: Path | None) -> Path:
    """Fine-tune as the recipe says; the folder of the complete run.

    Errors: RecipeError, DataError, RunError.
    """
    with distributed.joined(pick_device(recipe.device)) as all_ranks:
        dataset, items, recipe = prepare.read(recipe)
        dtype = pick_dtype(recipe.dtype, all_ranks.device)  # so that a resumed run keeps it
        recipe = recipe.model_copy(update={"dtype": dtype})
        check_processes(recipe, all_ranks, sum(not item.is_valid for item in items))
        network, weights = prepare.start(recipe, len(dataset.labels))
        path = Path(all_ranks.agree(str(run_folder.create(out)) if all_ranks.first else ""))
        with run_folder.held(path, all_ranks.first):
            print(f"{recipe.arch} from weights {weights[0]}, on {all_ranks.device} -> {path}")
            network.to(memory_format=torch.channels_last).to(all_ranks.device)
            training = prepare.training_of(dataset, items, recipe, all_ranks.device)
            if recipe.lr == "auto":
                trial = FineTuning(
                    copy.deepcopy(network), training, dataset.task, recipe, all_ranks
                )
                recipe = lr_finder.with_found_rate(trial)
            if all_ranks.first:
                run_folder.write_start(path, recipe, items, provenance(recipe, items, weights))
                checkpoint.write(path, Progress(), network)
            return _fit(path, recipe, dataset, items, training, network, None, all_ranks)


def resume(path: Path) -> Path:
    """Go on with a run that was stopped, as if it had not been: on a CPU bit for bit.

    Raises RunError if there is nothing to go on with, or the images are not what they were.
    """
    recipe, items = run_folder.read_start(path)
    with (
        distributed.joined(pick_device(recipe.device)) as all_ranks,
        run_folder.held(path, all_ranks.first),
    ):
        dataset = datasets.read_as(run_folder.own_quarantine(path, recipe))
        files = [dataset.root / example.file for example in dataset.examples]
        hashes = decoding.hashes(files)
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
    tuning = FineTuning(network, training, dataset.task, recipe, all_ranks)
    valid_items = [item for item in items if item.is_valid]
    mine = all_ranks.share(torch.arange(len(valid_items))).tolist()
    held_out = HeldOut(
        decoding.served([dataset.root / valid_items[row].file for row in mine], recipe.preprocess),
        evaluate.truth([item.labels for item in valid_items], dataset.labels),
    )
    watch = Watch(path, tuning, held_out)
    try:
        tuning.run(start, watch.after_epoch, watch.save, watch.enough)
    except DivergedError as error:
        (path / run_folder.DIVERGED_FILE).write_text(
            "\n".join(error.files) + "\n", encoding="utf-8"
        )
        raise
    except KeyboardInterrupt:
        print(f"stopped; go on with: python -m training train --resume {path}", file=sys.stderr)
        raise
    if recipe.early_stop:
        all_ranks.agree("")  # the first process may still be writing it
        checkpoint.restore_best(path, network)
    logits = watch.logits()
    if all_ranks.first:
        device = all_ranks.device
        _conclude(path, dataset, items, held_out.truth, logits, network, recipe, device)
    return path


def _conclude(
    path: Path,
    dataset: Dataset,
    items: list[Item],
    targets: NDArray[np.bool_],
    logits: NDArray[np.float32],
    network: Network,
    recipe: Recipe,
    device: torch.device,
) -> None:
    """Measure, calibrate, and write what makes the run complete."""
    task, labels = dataset.task, dataset.labels
    valid_items = [item for item in items if item.is_valid]
    scores, tags = calibration.cross_fitted(logits, targets, task)
    evaluation = Evaluation(
        task,
        labels,
        valid_items,
        [dataset.root / item.file for item in valid_items],
        targets,
        scores,
        calibration.probabilities(logits, task, 1.0),
        tags if task == "multi" else evaluate.decide(scores, None),
    )
    measured = evaluation.measure()
    evaluate.write(path, evaluation, measured)
    temperature = calibration.fit_temperature(logits, targets, task)
    shipped = calibration.probabilities(logits, task, temperature)
    thresholds = calibration.fit_thresholds(shipped, targets) if task == "multi" else None
    outcome = run_folder.Outcome(
        task=task,
        arch=recipe.arch,
        labels=labels,
        temperature=temperature,
        thresholds=thresholds,
        preprocess=recipe.preprocess,
        metrics=measured,
        baseline=evaluate.baseline(shipped, evaluate.decide(shipped, thresholds)),
        provenance=run_folder.read_provenance(path),
    )
    run_folder.write_weights(path, network.weights())
    subject = scorer.of_run(Run(path, outcome, items), device)
    history = html_report.History(run_folder.read_epochs(path), run_folder.read_curves(path))
    html_report.write(path / run_folder.REPORT_FILE, subject, evaluation, measured, history)
    run_folder.write_end(path, outcome)
    checkpoint.remove(path)
    print(
        f"{len(valid_items)} held-out images, value and 95 % interval:\n{evaluate.table(measured)}"
    )
    print(f"wrote {path}; to read: {path / run_folder.REPORT_FILE}")
    print(f"next: python -m training export {path} --name NAME")
