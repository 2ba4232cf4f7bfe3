"""Scores for every image from a linear head that was trained on the others.

The features are the pretrained network's, computed once, so that a head a fold takes seconds.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.manifest import Task
from training.data import decoding
from training.data.record import Record
from training.data.targets import loss_targets
from training.network import pretrained
from training.network.inference import in_batches
from training.recipe import Recipe

FOLDS = 5
_PENALTY = 0.03  # of 0.003 to 0.1 the best on Caltech-101 and near the best on VOC 2007
_AT_ONCE = 2048  # decoded images that are kept in memory


def features(files: Sequence[Path], recipe: Recipe, device: torch.device) -> NDArray[np.float32]:
    """The recipe's network before training, average-pooled: float32 `[N, F]`.

    Images are decoded as they will be served. Raises RecipeError if there are no weights, DataError
    if a file cannot be decoded.
    """
    with torch.random.fork_rng():
        network, _ = pretrained.start(recipe, 1)
    network.eval().to(memory_format=torch.channels_last).to(device)

    def pooled(images: Tensor) -> Tensor:
        return network.features(images.permute(0, 3, 1, 2).float()).mean((2, 3))

    parts = [files[start : start + _AT_ONCE] for start in range(0, len(files), _AT_ONCE)]
    return np.concatenate(
        [in_batches(pooled, decoding.served(part, recipe.preprocess), device) for part in parts]
    )


def folds(records: Sequence[Record], seed: int) -> NDArray[np.int64]:
    """Which fold each record is in `[N]`, by its content: the same on every machine.

    Near-duplicates are in the same fold, as a copy with the same wrong label would confirm it.
    The images of each label, the rarest first, are dealt out to the folds in turn.
    """
    counts = Counter(label for record in records for label in record.labels)
    members: dict[int, list[int]] = defaultdict(list)
    for row, record in enumerate(records):
        members[record.group].append(row)

    def order(rows: list[int]) -> tuple[tuple[int, str], bytes]:
        own = [(counts[label], label) for row in rows for label in records[row].labels]
        content = min(records[row].sha256 for row in rows)
        return min(own, default=(0, "")), hashlib.sha256(f"{seed} {content}".encode()).digest()

    found = np.empty(len(records), np.int64)
    for number, rows in enumerate(sorted(members.values(), key=order)):
        found[rows] = number % FOLDS
    return found


def scores(
    features: NDArray[np.float32],
    targets: NDArray[np.bool_],
    task: Task,
    folds: NDArray[np.int64],
    device: torch.device,
) -> NDArray[np.float32]:
    """Each image's probabilities `[N, C]`, from the head that its fold had no part in.

    NaN for a label that no image of the other folds has: nothing is known of it.
    """
    spread = np.maximum(features.std(0), 1e-6)
    inputs = torch.from_numpy((features - features.mean(0)) / spread).to(device)
    found = np.full(targets.shape, np.nan, np.float32)
    for fold in np.unique(folds):
        inside = folds == fold
        learnt = targets[~inside].any(0)
        if not learnt.any():
            continue
        head = fit(inputs[~inside], targets[~inside][:, learnt], task)
        logits = head(inputs[inside])
        shares = logits.softmax(1) if task == "single" else logits.sigmoid()
        found[np.ix_(inside, learnt)] = shares.cpu().numpy()
    return found


def fit(inputs: Tensor, targets: NDArray[np.bool_], task: Task) -> nn.Linear:
    """Logistic regression: inputs `[N, F]`, targets `[N, C]` -> the head, without gradients.

    Minimises the mean loss of an image (in a multi-label task, the sum over its labels) plus
    _PENALTY / 2 times the squared weights: scikit-learn's objective with C = 1 / (N _PENALTY).
    """
    with torch.random.fork_rng():
        head = nn.Linear(inputs.shape[1], targets.shape[1], device=inputs.device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    wanted = loss_targets(targets, task).to(inputs.device)
    solver = torch.optim.LBFGS(head.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        solver.zero_grad()
        logits = head(inputs)
        if task == "single":
            loss = nn.functional.cross_entropy(logits, wanted.long())
        else:
            losses = nn.functional.binary_cross_entropy_with_logits(
                logits, wanted, reduction="none"
            )
            loss = losses.sum(1).mean()
        loss = loss + _PENALTY / 2 * head.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    solver.step(objective)  # type: ignore[no-untyped-call]
    return head.requires_grad_(False)
