"""`train`: from DATA to a complete run, in data-flow order."""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from models.errors import DataError, RunError
from models.manifest import Provenance
from models.outputs import Outputs
from models.wording import counted, some
from training import distributed, output, run_folder
from training.data import csv_tables, datasets, decoding, file_scan
from training.data.contents import Contents
from training.data.prepare import Prepared, prepare
from training.data.record import Record
from training.data.targets import encode
from training.distributed import Ranks
from training.evaluation import calibration, evaluate, novelty, scorer
from training.evaluation.decisions import baseline, decide
from training.evaluation.promises import held_out_by
from training.fine_tuning import checkpoint, lr_finder, schedule
from training.fine_tuning.batches import training_set
from training.fine_tuning.checkpoint import Checkpoint, Progress
from training.fine_tuning.trainer import DivergedError, FineTuning, check_processes
from training.fine_tuning.validation import Validation
from training.hardware import pick_device, pick_dtype
from training.network.novelty import Novelty
from training.network.pretrained import start as start_from
from training.network.resnet import Network
from training.provenance import provenance
from training.recipe import Recipe
from training.run_folder import Outcome
from training.tracking import choice, trackers
from training.tracking.choice import Choice
from training.tracking.pictures import Judged


def train(recipe: Recipe, out: Path | None, tracking: Choice | None = None) -> Path:
    """Fine-tune by the recipe; returns the folder of the complete run.

    Raises RecipeError, DataError or RunError.
    """
    with distributed.joined(pick_device(recipe.device)) as ranks:
        images = prepare(recipe)
        dtype = pick_dtype(recipe.dtype, ranks.device)  # a resumed run keeps it
        recipe = recipe.model_copy(update={"task": images.dataset.task, "dtype": dtype})
        check_processes(recipe, ranks, len(images.split.train))
        network, weights = start_from(recipe, len(images.dataset.labels))
        path = Path(ranks.broadcast(str(run_folder.create(out)) if ranks.first else ""))
        with run_folder.locked(path, ranks.first):
            output.note(f"{recipe.arch} from weights {weights[0]}, on {ranks.device} -> {path}")
            tuning = _tuning(network, images, recipe, ranks)
            if recipe.lr == "auto":
                trial = replace(tuning, network=copy.deepcopy(network))
                recipe = lr_finder.with_found_lr(trial)
                tuning = replace(tuning, recipe=recipe)
            origin = provenance(recipe, images.split, weights)
            if ranks.first:
                run_folder.write_start(path, recipe, images.split, origin)
                choice.write(path, tracking or Choice())
                checkpoint.write(path, Progress(), network)
            return _fit(path, images, tuning, None, origin)


def resume(path: Path) -> Path:
    """Resume a stopped run as if it had not been stopped: on a CPU, bit-identical.

    Raises RunError if there is nothing to resume, or the images have changed.
    """
    recipe, sides = run_folder.read_start(path)
    with (
        distributed.joined(pick_device(recipe.device)) as ranks,
        run_folder.locked(path, ranks.first),
    ):
        check_processes(recipe, ranks, len(sides.train))
        dataset = datasets.read_as(run_folder.with_own_lists(path, recipe))
        contents = Contents()
        found = {(r.file, r.sha256, r.labels) for r in file_scan.hashed(dataset, contents)}
        known = {(r.file, r.sha256, r.labels) for r in sides.records}
        if changed := sorted({file for file, *_ in found ^ known}):
            raise RunError(
                f"{counted(len(changed), 'image')} of {recipe.data_name} changed since {path} was"
                f" started ({some(changed)}): start a new run"
            )
        start = checkpoint.read(path)
        if start is None:
            raise RunError(f"{path} has no intact checkpoint: start a new run")
        torch.set_num_threads(start.progress.threads)
        output.note(
            f"resuming {path} after step {start.progress.step}, its last checkpoint{_lost(start)}"
        )
        network = Network(recipe.arch, len(dataset.labels))
        images = Prepared(dataset, sides, contents)
        tuning = _tuning(network, images, recipe, ranks)
        return _fit(path, images, tuning, start, run_folder.read_provenance(path))


def _lost(start: Checkpoint) -> str:
    """Why a run begins anew, if it does."""
    if start.progress.step:
        return ""
    return (
        ": it was stopped before it wrote another (--checkpoint-s seconds apart, and after each"
        " epoch), so it trains from the start"
    )


def _tuning(network: Network, images: Prepared, recipe: Recipe, ranks: Ranks) -> FineTuning:
    network.to(memory_format=torch.channels_last).to(ranks.device)
    training = training_set(images, recipe, ranks.device)
    return FineTuning(network, training, images.dataset.task, recipe, ranks)


def _fit(
    path: Path,
    images: Prepared,
    tuning: FineTuning,
    start: Checkpoint | None,
    origin: Provenance,
) -> Path:
    """Train, validate after each epoch, and complete the run."""
    recipe, ranks, network = tuning.recipe, tuning.ranks, tuning.network
    progress = start.progress if start else Progress()
    records, labels = images.split.valid, images.dataset.labels
    files = _files(images, records)
    own = [files[row] for row in ranks.share(torch.arange(len(files))).tolist()]
    decoded = decoding.served(own, recipe.preprocess, images.contents.take)
    images.contents.clear()
    targets, steps = encode(records, labels), recipe.steps(len(images.split.train))

    def pixels(rows: Sequence[int]) -> NDArray[np.uint8]:
        if ranks.count == 1:
            return decoded[list(rows)].numpy()
        return decoding.served([files[row] for row in rows], recipe.preprocess).numpy()

    names = [record.file for record in records]
    judged = Judged(network, ranks.device, tuning.task, labels, names, targets, pixels)
    done = len(progress.epochs)
    with trackers.opened(path, recipe, done, steps, ranks.first) as tracking:

        def watch(progress: Progress, logits: NDArray[np.float32]) -> None:
            curve = schedule.curve(recipe, steps, len(network.blocks), progress.losses)
            tracking.after_epoch(judged, progress.epochs, curve, logits)

        validation = Validation(
            path, network, tuning.task, recipe, ranks, decoded, targets, steps, watch
        )
        _run(tuning, progress, start, validation)
        if recipe.early_stop:
            ranks.broadcast("")  # the first process may still be writing it
            checkpoint.restore_best(path, network)
        features, logits = validation.features_and_logits()
        if ranks.first:
            _complete(images, validation, features, logits, progress, origin, pixels)
            tracking.complete()
    if ranks.first:
        output.note(f"next: python -m training export {path} --name NAME")
    return path


def _run(
    tuning: FineTuning, progress: Progress, start: Checkpoint | None, validation: Validation
) -> None:
    """Train, and say how to go on where that was not possible."""
    path = validation.path
    try:
        tuning.run(progress, start, validation, path)
    except DivergedError as error:
        text = "".join(f"{file}\n" for file in error.files)
        (path / run_folder.DIVERGED_FILE).write_text(text, "utf-8", csv_tables.FILE_NAMES)
        raise
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(
            f"stopped; resume with: python -m training train --resume {path}"
        ) from interrupt


def _complete(
    images: Prepared,
    validation: Validation,
    features: NDArray[np.float32],
    logits: NDArray[np.float32],
    progress: Progress,
    origin: Provenance,
    pixels: Callable[[Sequence[int]], NDArray[np.uint8]],
) -> None:
    """Evaluate, calibrate, and write the files that make the run complete.

    pixels: the validation images at some rows, as served.
    """
    path, network, recipe = validation.path, validation.network, validation.recipe
    task, labels, targets = validation.task, images.dataset.labels, validation.targets
    distance = _novelty(images, validation)
    strangeness = None if distance is None else distance.of(features)
    evaluation = evaluate.cross_fitted(
        task, labels, images.split.valid, pixels, logits, novelty=strangeness
    )
    measured = evaluation.measure()
    evaluate.write(path, evaluation, measured)
    temperature = calibration.fit_temperature(logits, targets, task)
    shipped = calibration.probabilities(logits, task, temperature)
    thresholds = calibration.fit_thresholds(shipped, targets) if task == "multi" else None
    outcome = Outcome(
        root=str(images.dataset.root.absolute()),
        more_roots=images.dataset.more_roots,
        task=task,
        arch=recipe.arch,
        labels=labels,
        temperature=temperature,
        thresholds=thresholds,
        preprocess=recipe.preprocess,
        metrics=measured,
        baseline=baseline(shipped, decide(shipped, thresholds)),
        provenance=origin,
    )
    run_folder.write_weights(path, network.weights())
    held_out = None
    if distance is not None:
        held_out = held_out_by(Outputs(shipped, strangeness), targets, task)
        run_folder.write_novelty(path, distance, held_out)
    trained_on = [record.sha256 for record in images.split.train]
    subject = scorer.of_network(
        network, str(path), outcome, trained_on, validation.ranks.device, distance, held_out
    )
    steps = schedule.curve(recipe, validation.steps, len(network.blocks), progress.losses)
    from training.reports import html_report  # late: what it draws with takes a second

    history = html_report.History(progress.epochs, steps)
    html_report.write(path / run_folder.REPORT_FILE, subject, evaluation, measured, history)
    run_folder.write_end(path, outcome)
    checkpoint.remove(path)
    measured_on = counted(len(logits), "validation image")
    print(f"{measured_on}, value and 95 % interval:\n{evaluate.table(measured)}")
    print(f"wrote {path}; read {path / run_folder.REPORT_FILE}")


def _novelty(images: Prepared, validation: Validation) -> Novelty | None:
    """How far images are from the training images; None, with the reason printed, if unknown.

    A file that went missing meanwhile must not cost the whole training.
    """
    began_s = time.perf_counter()
    try:
        found = novelty.estimate(
            validation.network, images, validation.recipe.preprocess, validation.ranks.device
        )
    except DataError as error:
        output.note(f"novelty left out: {error}")
        return None
    if found is None:
        output.note("novelty left out: too few training images for it")
        return None
    output.note(f"novelty measured on training images in {time.perf_counter() - began_s:.1f} s")
    return found


def _files(images: Prepared, records: Sequence[Record]) -> list[Path]:
    return [images.dataset.root / record.file for record in records]
