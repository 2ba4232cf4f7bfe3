"""From a recipe to what is trained on: read, looked at, split, decoded."""

import time

import numpy as np
import torch
from numpy.typing import NDArray

from models.manifest import Task
from training.data import datasets, file_scan, near_duplicates, split
from training.data.datasets import Dataset
from training.data.image_source import feed
from training.data.split import Item
from training.evaluation import evaluate
from training.fine_tuning.batches import Training
from training.network.resnet import Network, pretrain
from training.recipe import Recipe, data_words


def read(recipe: Recipe) -> tuple[Dataset, list[Item], Recipe]:
    """The images that can be trained on, their split, and the recipe with the task they have."""
    dataset = datasets.read_as(recipe)
    datasets.check_labels(dataset)
    return dataset, divide(dataset, recipe), recipe.model_copy(update={"task": dataset.task})


def divide(dataset: Dataset, recipe: Recipe) -> list[Item]:
    """Look at every file, then split; what a person should know of is printed."""
    records = file_scan.survey([dataset.root / example.file for example in dataset.examples])
    file_scan.refuse_bad(records, data_words(recipe))
    groups = near_duplicates.groups(records)
    hashes = [str(record.sha256) for record in records]
    items = split.split(dataset, hashes, groups, recipe.valid, recipe.seed)
    for note in dataset.notes:
        print(note)
    if near := split.straddling(items, groups):
        trained, held_out = near[0]
        print(
            f"{len(near)} groups of near-duplicates are on both sides of the given split, among"
            f" them {trained[0].file} and {held_out[0].file}: see inspect"
        )
    held_out_count = sum(item.is_valid for item in items)
    print(
        f"{len(items)} images, {len(dataset.labels)} labels, {dataset.task}-label:"
        f" {len(items) - held_out_count} to train on, {held_out_count} held out"
    )
    return items


def training_of(
    dataset: Dataset, items: list[Item], recipe: Recipe, device: torch.device
) -> Training:
    """The images that are trained on, decoded where they are cached."""
    chosen = [item for item in items if not item.is_valid]
    targets = evaluate.truth([item.labels for item in chosen], dataset.labels)
    files = [item.file for item in chosen]
    started = time.perf_counter()
    source = feed([dataset.root / file for file in files], recipe, device)
    seconds = time.perf_counter() - started
    print(f"training images come from {source.place}, ready after {seconds:.1f} s")
    return Training(source, files, loss_targets(targets, dataset.task))


def start(recipe: Recipe, labels: int) -> tuple[Network, tuple[str, str | None, str]]:
    """The network that a run begins with, on the CPU; its weights as `pretrain` describes them."""
    torch.manual_seed(recipe.seed)
    network = Network(recipe.arch, labels)
    return network, pretrain(network, recipe.arch, recipe.weights)


def loss_targets(targets: NDArray[np.bool_], task: Task) -> torch.Tensor:
    """What `loss_of` takes, from bools `[N, C]`."""
    learned = torch.from_numpy(targets)
    return learned.int().argmax(1) if task == "single" else learned.float()
