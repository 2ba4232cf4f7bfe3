"""Novelty of a trained network, estimated from some of its training images."""

from collections import Counter
from collections.abc import Sequence

import torch

from models.manifest import Preprocess, Task
from training.data import decoding
from training.data.prepare import Prepared
from training.data.record import Record
from training.data.targets import encode
from training.network import novelty
from training.network.inference import features_and_logits_of
from training.network.novelty import Novelty
from training.network.resnet import Network

MOST = 2_000  # training images


def estimate(
    network: Network, images: Prepared, preprocess: Preprocess, device: torch.device
) -> Novelty | None:
    """By at most 2,000 of the training images, decoded as they will be served.

    None with too few of them. Raises DataError if a file cannot be decoded.
    """
    dataset = images.dataset
    records = chosen(images.split.train, dataset.task, MOST)
    pixels = decoding.served([dataset.root / record.file for record in records], preprocess)
    features, _ = features_and_logits_of(network, pixels, device)
    return novelty.fit(features, encode(records, dataset.labels), dataset.task)


def chosen(records: Sequence[Record], task: Task, most: int) -> list[Record]:
    """At most `most` records: the same on every machine; single-label, as even as they can be."""
    seen: Counter[str] = Counter()
    turns: list[tuple[int, str, Record]] = []
    for record in sorted(records, key=lambda record: record.sha256):
        label = record.labels[0] if task == "single" else ""
        turns.append((seen[label] if task == "single" else 0, record.sha256, record))
        seen[label] += 1
    return [record for _, _, record in sorted(turns, key=lambda turn: turn[:2])[:most]]
