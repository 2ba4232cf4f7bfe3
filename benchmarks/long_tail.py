"""What `--balance` is worth where a few labels have most of the images.

python -m benchmarks.long_tail FOLDER RESULTS

FOLDER as for `benchmarks.training`. Of Caltech-101's training images a label keeps from MOST, the
most frequent, down to MOST / IMBALANCE, in a geometric progression (Cui et al., Class-Balanced
Loss, 2019). RESULTS is a JSON-lines file from which an interrupted call resumes. Prints a table:
the mean over the seeds, and in brackets the difference from none for each seed.

Two sets of validation images: all of them, for macro F1 and for the recall of the rarest third of
the labels; and of these a cut with the long tail of the training images, as the validation images
of such a set have: for error, negative log-likelihood and the calibration error.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from training.data import decoding
from training.data.image_source import Cached
from training.data.prepare import prepare
from training.data.record import Record
from training.data.targets import encode, loss_targets
from training.distributed import Ranks
from training.evaluation import calibration, calibration_error, metrics
from training.evaluation.decisions import calibration_pairs
from training.fine_tuning import balance
from training.fine_tuning.batches import TrainingSet
from training.fine_tuning.checkpoint import Progress
from training.fine_tuning.loss import precision
from training.fine_tuning.trainer import FineTuning
from training.network.inference import logits_of
from training.network.pretrained import pretrain
from training.network.resnet import Network
from training.recipe import Recipe

MOST, IMBALANCE = 100, 50
IMAGE_PX = 96
SEEDS = (1, 2, 3)
CPU = torch.device("cpu")


class Weighted(FineTuning):
    """A loss weighted by the inverse root of the label's frequency, in place of sampling."""

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        counts = self.training.targets.bincount(minlength=logits.shape[1])
        weights = counts.clamp(min=1).float().rsqrt()
        return nn.functional.cross_entropy(logits, targets, weights.to(logits.device))


# whether the loss is weighted, the recipe's balance, and whether the logits are set back to the
# training images' frequencies afterwards (Menon et al., Long-Tail Learning via Logit Adjustment,
# 2021)
VARIANTS: dict[str, tuple[bool, str, bool]] = {
    "none": (False, "none", False),
    "sampling by the root": (False, "root", False),
    "sampling by the root, frequencies set back": (False, "root", True),
    "weights by the root": (True, "none", False),
}
FIGURES = {
    "macro F1": "macro_f1",
    "recall, rarest third": "rare_recall",
    "error": "error",
    "NLL": "nll",
    "calibration error": "calibration",
}


@dataclass(frozen=True)
class LongTail:
    """The images, decoded once for all runs. tail: rows of the validation images in the cut."""

    recipe: Recipe
    labels: tuple[str, ...]
    training: TrainingSet
    validation: Tensor
    targets: NDArray[np.bool_]
    tail: NDArray[np.int64]


def cut(records: Sequence[Record], most: float, imbalance: float) -> list[Record]:
    """Of each label the first images by hash: geometrically fewer, the rarer the label is."""
    of_label: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: record.sha256):
        of_label.setdefault(record.labels[0], []).append(record)
    ranked = sorted(of_label, key=lambda label: (-len(of_label[label]), label))
    kept = []
    for rank, label in enumerate(ranked):
        share = imbalance ** (-rank / (len(ranked) - 1))
        kept += of_label[label][: max(1, round(most * share))]
    return kept


@cache
def long_tail(folder: Path) -> LongTail:
    given = {
        "data": str(folder / "caltech101"),
        "weights": str(folder / "weights" / "resnet18-distilled.pth"),
        "image_size": IMAGE_PX,
        "device": "cpu",
        "freeze_epochs": 1,
        "epochs": 3,
    }
    recipe = Recipe.model_validate(given)
    images = prepare(recipe)
    root, labels = images.dataset.root, images.dataset.labels
    chosen = cut(images.split.train, MOST, IMBALANCE)
    # the same labels are frequent on both sides, as the split is made label by label
    tail = {r.file for r in cut(images.split.valid, MOST / 4, IMBALANCE)}
    valid = images.split.valid
    squares = decoding.presized([root / r.file for r in chosen], recipe.presize_px)
    targets = loss_targets(encode(chosen, labels), "single")
    return LongTail(
        recipe.model_copy(update={"task": "single"}),
        labels,
        TrainingSet(Cached(*squares), [r.file for r in chosen], targets),
        decoding.served([root / r.file for r in valid], recipe.preprocess),
        encode(valid, labels),
        np.array([row for row, record in enumerate(valid) if record.file in tail]),
    )


def run(folder: Path, variant: str, seed: int) -> dict[str, Any]:
    """The figures of one variant."""
    images = long_tail(folder)
    weighted, balanced, set_back = VARIANTS[variant]
    logits = trained(folder, weighted, balanced, seed)
    if set_back:
        logits = logits + _prior(images.training.targets, len(images.labels))
    return {"variant": variant, "seed": seed, "figures": _figures(logits, images)}


@cache
def trained(folder: Path, weighted: bool, balanced: str, seed: int) -> NDArray[np.float32]:
    """Fine-tune, and return the logits `[N, C]` of the validation images."""
    images = long_tail(folder)
    recipe = images.recipe.model_copy(update={"balance": balanced, "seed": seed})
    torch.manual_seed(seed)
    network = Network(recipe.arch, len(images.labels))
    pretrain(network, recipe.arch, recipe.weights)
    network.to(memory_format=torch.channels_last)
    tuning = Weighted if weighted else FineTuning
    tuning(network, images.training, "single", recipe, Ranks(0, 1, CPU)).run(Progress())
    with precision(CPU, recipe.dtype):
        return logits_of(network, images.validation, CPU)


def _prior(targets: Tensor, labels: int) -> NDArray[np.float32]:
    """log(frequency / frequency among the images drawn) of each label `[C]`."""
    counts = targets.bincount(minlength=labels).double()
    drawn = targets.bincount(balance.shares(targets), minlength=labels)
    return (counts / drawn).log().float().numpy()


def _figures(logits: NDArray[np.float32], images: LongTail) -> dict[str, float]:
    true = images.targets.argmax(1)
    whole = metrics.values(metrics.single_label(logits, true), len(true))
    counts = np.bincount(images.training.targets.numpy(), minlength=len(images.labels))
    rare = np.argsort(counts, kind="stable")[: len(counts) // 3]
    right = logits.argmax(1) == true
    recalls = [right[true == label].mean() for label in rare if (true == label).any()]
    tail, targets = logits[images.tail], images.targets[images.tail]
    scores, _ = calibration.cross_fitted(tail, targets, "single")
    of_tail = metrics.values(metrics.single_label(scores, targets.argmax(1)), len(tail))
    return {
        "macro_f1": whole["macro_f1"],
        "rare_recall": float(np.mean(recalls)),
        "error": of_tail["error"],
        "nll": of_tail["nll"],
        "calibration": calibration_error.measure(
            *calibration_pairs("single", scores, targets)
        ).value,
    }


def table(results: list[dict[str, Any]]) -> str:
    """Rows of variants, columns of figures."""
    found = {(r["variant"], r["seed"]): r["figures"] for r in results}
    lines = [f"| | {' | '.join(FIGURES)} |", "|---" * (len(FIGURES) + 1) + "|"]
    for variant in VARIANTS:
        seeds = [s for s in SEEDS if (variant, s) in found and ("none", s) in found]
        cells = []
        for name in FIGURES.values() if seeds else ():
            own = [found[variant, s][name] for s in seeds]
            gaps = [a - found["none", s][name] for a, s in zip(own, seeds, strict=True)]
            shown = f" ({', '.join(f'{gap:+.3f}' for gap in gaps)})" if variant != "none" else ""
            cells.append(f"{mean(own):.3f}{shown}")
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(folder: Path, results: Path) -> None:
    done = [json.loads(line) for line in results.open()] if results.exists() else []
    for seed in SEEDS:
        for variant in VARIANTS:
            if any((d["variant"], d["seed"]) == (variant, seed) for d in done):
                continue
            done.append(run(folder, variant, seed))
            with results.open("a") as file:
                file.write(json.dumps(done[-1]) + "\n")
    print(table(done))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
