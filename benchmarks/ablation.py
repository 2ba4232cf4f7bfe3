"""What each choice in the recipe is worth, on real data sets; includes the negative results.

python -m benchmarks.ablation FOLDER RESULTS

FOLDER as for `benchmarks.training`, and `pets/`. Every variant is fine-tuned from the same weights,
with the same splits and seeds as a base recipe that normalizes with batch statistics, on a quarter
of the training images of Caltech-101 and VOC 2007 and on all of Oxford Pets. RESULTS is a
JSON-lines file from which an interrupted call resumes. Prints a table: validation error (1 - mAP
for VOC), the mean over the seeds, and in brackets the difference from the base for each seed.
"""

import json
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from models.manifest import Preprocess, Task
from training.data import decoding
from training.data.image_source import Cached
from training.data.prepare import prepare
from training.data.targets import encode, loss_targets
from training.distributed import Ranks
from training.evaluation import metrics
from training.fine_tuning.batches import Batch, TrainingSet
from training.fine_tuning.checkpoint import Progress
from training.fine_tuning.loss import precision
from training.fine_tuning.schedule import Phase
from training.fine_tuning.trainer import FineTuning
from training.network.inference import logits_of
from training.network.pretrained import pretrain
from training.network.resnet import Network
from training.recipe import Recipe

SETS: dict[str, tuple[str, int, dict[str, int]]] = {  # folder, every n-th image, epochs
    "Caltech-101": ("caltech101", 4, {"freeze_epochs": 1, "epochs": 3}),
    "VOC 2007": ("voc2007/train.csv", 4, {"freeze_epochs": 1, "epochs": 3}),
    "Oxford Pets": ("pets", 1, {"freeze_epochs": 5, "epochs": 10}),
}
SEEDS = (1, 2)
CPU = torch.device("cpu")


class Smoothed(FineTuning):
    """Label smoothing of 0.1."""

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.task == "single":
            return nn.functional.cross_entropy(logits, targets, label_smoothing=0.1)
        smooth = targets * 0.9 + 0.05
        return nn.functional.binary_cross_entropy_with_logits(logits, smooth)


class Mixed(FineTuning):
    """Mixup with alpha 0.2 (Zhang et al., 2018)."""

    def step(
        self,
        learner: nn.Module,
        optimizer: torch.optim.Optimizer,
        batch: Batch,
    ) -> Tensor:
        images, targets, weight = batch
        self.share = float(np.random.beta(0.2, 0.2))
        self.partners = torch.randperm(len(images))
        mixed = images * self.share + images[self.partners] * (1 - self.share)
        return super().step(learner, optimizer, (mixed, targets, weight))

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        own, other = (super(Mixed, self).loss(logits, t) for t in (targets, targets[self.partners]))
        return own * self.share + other * (1 - self.share)


class Averaged(FineTuning):
    """An exponential moving average of the weights, over about 50 steps."""

    average: AveragedModel | None = None

    def step(
        self,
        learner: nn.Module,
        optimizer: torch.optim.Optimizer,
        batch: Batch,
    ) -> Tensor:
        if self.average is None:
            decay = get_ema_multi_avg_fn(0.98)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(self.network, multi_avg_fn=decay, use_buffers=True)
        loss = super().step(learner, optimizer, batch)
        self.average.update_parameters(self.network)
        return loss


class ConcatHead(Network):
    """fastai's head: average and max pooling, two linear layers, batch norm, dropout."""

    def __init__(self, arch: Any, labels: int) -> None:
        super().__init__(arch, labels)
        width = self.resnet.fc.in_features
        self.resnet.fc = nn.Sequential(
            *(nn.BatchNorm1d(2 * width), nn.Dropout(0.25), nn.Linear(2 * width, 512, bias=False)),
            *(nn.ReLU(), nn.BatchNorm1d(512), nn.Dropout(0.5), nn.Linear(512, labels, bias=False)),
        )

    def logits(self, features: Tensor) -> Tensor:
        pooled = torch.cat([features.amax((2, 3)), features.mean((2, 3))], 1)
        return self.resnet.fc(pooled)  # type: ignore[no-any-return]


class WithConcatHead(FineTuning):
    def _set_norms(self, phase: Phase) -> None:
        super()._set_norms(phase)
        self.network.resnet.fc.train()


VARIANTS: dict[str, tuple[dict[str, Any], type[FineTuning], type[Network]]] = {
    "batch norm": ({}, FineTuning, Network),
    "lr halved": ({"lr": "4e-3"}, FineTuning, Network),
    "lr doubled": ({"lr": "16e-3"}, FineTuning, Network),
    "one learning rate for all layers": ({"lr": "1e-3:1e-3"}, FineTuning, Network),
    "no frozen epochs": ({"freeze_epochs": 0}, FineTuning, Network),
    "fixed batch norm": ({"norms": "fixed"}, FineTuning, Network),
    "fixed batch norm, lr doubled": ({"norms": "fixed", "lr": "16e-3"}, FineTuning, Network),
    "fastai's head": ({}, WithConcatHead, ConcatHead),
    "label smoothing 0.1": ({}, Smoothed, Network),
    "mixup 0.2": ({}, Mixed, Network),
    "weight average 0.98": ({}, Averaged, Network),
    "crops from 0.25 of the area": ({"scale": 0.25}, FineTuning, Network),
}
BASE = "batch norm"
CROPS = (0.8, 0.9, 1.0)  # the base is measured at all of them, the variants at 0.9


@dataclass(frozen=True)
class RealSet:
    """One data set, decoded once for all its runs."""

    recipe: Recipe
    labels: tuple[str, ...]
    training: TrainingSet
    validation: dict[float, Tensor]  # crop fraction -> images as served
    targets: NDArray[np.bool_]


@cache
def real_set(folder: Path, name: str) -> RealSet:
    path, every, epochs = SETS[name]
    weights = str(folder / "weights" / "resnet18-distilled.pth")
    given = {"data": str(folder / path), "weights": weights, "image_size": 128, "device": "cpu"}
    given["norms"] = "batch"
    recipe = Recipe.model_validate(given | epochs)
    images = prepare(recipe)
    root, labels, task = images.dataset.root, images.dataset.labels, images.dataset.task
    chosen = sorted(images.split.train, key=lambda record: record.sha256)[::every]
    squares = decoding.presized([root / record.file for record in chosen], recipe.presize_px)
    files = [root / record.file for record in images.split.valid]
    return RealSet(
        recipe.model_copy(update={"task": task}),
        labels,
        TrainingSet(
            Cached(*squares),
            [record.file for record in chosen],
            loss_targets(encode(chosen, labels), task),
        ),
        {
            crop: decoding.served(files, Preprocess(image_size_px=128, crop_fraction=crop))
            for crop in CROPS
        },
        encode(images.split.valid, labels),
    )


def run(folder: Path, name: str, variant: str, seed: int) -> dict[str, Any]:
    """Fine-tune one variant; returns the validation metric at each crop fraction."""
    images = real_set(folder, name)
    changes, tuned, kind = VARIANTS[variant]
    recipe = images.recipe.model_copy(update=changes | {"seed": seed})
    task: Task = recipe.task or "single"
    torch.manual_seed(seed)
    np.random.seed(seed)
    network = kind(recipe.arch, len(images.labels))
    pretrain(network, recipe.arch, recipe.weights)
    network.to(memory_format=torch.channels_last)
    tuning = tuned(network, images.training, task, recipe, Ranks(0, 1, CPU))
    tuning.run(Progress())
    if isinstance(tuning, Averaged) and tuning.average is not None:
        network.load_state_dict(tuning.average.module.state_dict())
    measured = {}
    for crop in CROPS if variant == BASE else (recipe.crop_fraction,):
        with precision(CPU, recipe.dtype):
            logits = logits_of(network, images.validation[crop], CPU)
        measured[str(crop)] = _wrong(task, logits, images.targets)
    return {"set": name, "variant": variant, "seed": seed, "figures": measured}


def _wrong(task: Task, logits: Any, targets: Any) -> float:
    """Error, or 1 - mAP."""
    if task == "single":
        return float((logits.argmax(1) != targets.argmax(1)).mean())
    return 1 - float(np.nanmean(metrics.label_precisions(logits, targets)))


def table(results: list[dict[str, Any]]) -> str:
    """Rows of variants, columns of sets."""
    found = {(r["set"], r["variant"], r["seed"]): r["figures"] for r in results}
    rows: list[tuple[str, str, float]] = [(v, v, 0.9) for v in VARIANTS]
    rows += [(f"evaluated at crop {crop}", BASE, crop) for crop in CROPS if crop != 0.9]
    lines = [f"| | {' | '.join(SETS)} |", "|---" * (len(SETS) + 1) + "|"]
    for title, variant, crop in rows:
        cells = []
        for name in SETS:
            seeds = [s for s in SEEDS if (name, variant, s) in found and (name, BASE, s) in found]
            own = [found[name, variant, s][str(crop)] for s in seeds]
            base = [found[name, BASE, s]["0.9"] for s in seeds]
            if not seeds:
                cells.append("")
            elif title == BASE:
                cells.append(f"{mean(own):.3f}")
            else:
                gaps = [a - b for a, b in zip(own, base, strict=True)]
                cells.append(f"{mean(own):.3f} ({', '.join(f'{gap:+.3f}' for gap in gaps)})")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(folder: Path, results: Path) -> None:
    done = [json.loads(line) for line in results.open()] if results.exists() else []
    for seed in SEEDS:
        for variant in VARIANTS:
            for name in SETS:
                if any((d["set"], d["variant"], d["seed"]) == (name, variant, seed) for d in done):
                    continue
                done.append(run(folder, name, variant, seed))
                with results.open("a") as file:
                    file.write(json.dumps(done[-1]) + "\n")
    print(table(done))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
