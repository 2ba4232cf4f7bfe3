"""`lr-find`: find a learning rate for a new head on DATA, or for the whole network of a run."""

from pathlib import Path

import torch

from training import output, run_folder
from training.data import datasets
from training.data.contents import Contents
from training.data.prepare import Prepared, prepare
from training.distributed import Ranks
from training.fine_tuning.batches import training_set
from training.fine_tuning.lr_finder import PICKED, suggest, sweep, write
from training.fine_tuning.trainer import FineTuning
from training.hardware import pick_device
from training.network.pretrained import start
from training.recipe import Recipe, train_arguments
from training.run_folder import Run

_SWEPT = {
    "head": "the new head alone, which trains first and peaks at this value",
    "whole": "the whole network, whose head peaks at half of this value",
}


def lr_find(source: Recipe | Run, out: Path | None) -> None:
    """Sweep the learning rate of a new head by a recipe, or of the whole network of a run.

    Writes the curve and its plot to `out`, and prints the suggestions.
    """
    if isinstance(source, Run):
        phase, recipe, network = "whole", source.recipe, source.network()
        dataset = datasets.read_as(run_folder.with_own_lists(source.path, recipe))
        images = Prepared(dataset, source.split, Contents(room_bytes=0))
    else:
        images = prepare(source)
        phase, recipe = "head", source
        network, _ = start(recipe, len(images.dataset.labels))
    device, task = pick_device(recipe.device), images.dataset.task
    path = run_folder.create(out)
    network.to(memory_format=torch.channels_last).to(device)
    training = training_set(images, recipe, device)
    images.contents.clear()
    curve = sweep(FineTuning(network, training, task, recipe, Ranks(0, 1, device)), phase)
    suggestions = suggest(curve)
    plot = write(path, curve, suggestions)
    best = f"{suggestions.pop(PICKED):.1e}"
    others = ", ".join(f"{name} {lr:.1e}" for name, lr in suggestions.items())
    print(f"--lr {best}: the {PICKED} of the curve of {_SWEPT[phase]} (others: {others})")
    print(f"wrote {plot}")
    chosen = recipe.model_copy(update={"lr": best})
    output.note(f"next: python -m training train {train_arguments(chosen)}")
