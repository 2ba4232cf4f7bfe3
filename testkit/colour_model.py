"""Pictures of colours, a tiny model whose baseline was measured on such, and how it is asked."""

from collections.abc import Sequence
from pathlib import Path

import httpx
import numpy as np

from models.manifest import Baseline, Manifest, Task
from models.preprocess import decode
from models.store import Store
from serving.settings import PARTS_MAX
from testkit import tiny_models
from testkit.servers import Server
from training.evaluation.decisions import baseline, decide

Colour = tuple[int, int, int]
HELD_OUT = 600
RED: Colour = (200, 30, 30)


def colours(random: np.random.Generator, count: int, above: int = 140) -> list[Colour]:
    """Each with one channel above the others by less than `above`: the less, the harder to say."""
    found = random.integers(0, 110, (count, 3))
    strongest = random.choice(3, count, p=[0.4, 0.3, 0.3])
    rows = np.arange(count)
    found[rows, strongest] = found.max(axis=1) + random.integers(2, above, count)
    return [(red, green, blue) for red, green, blue in found.tolist()]


def said(manifest: Manifest, pictures: Sequence[Colour]) -> Baseline:
    """What a tiny model says of the pictures: in NumPy, and counted by training's own code."""
    images = [decode(tiny_models.picture(colour), manifest.preprocess) for colour in pictures]
    scores = tiny_models.reference_scores(np.stack(images), manifest.task)
    return baseline(scores, decide(scores, manifest.thresholds))


def add(store: Path, name: str, task: Task, held_out: Sequence[Colour]) -> None:
    """A tiny model whose baseline was measured on these."""

    def make(version: int) -> tuple[Manifest, dict[str, bytes]]:
        manifest, files = tiny_models.content(name, version, task)
        return manifest.model_copy(update={"baseline": said(manifest, held_out)}), files

    Store(store).add(name, make)


def ask(server: Server, task: Task, model: str, pictures: Sequence[Colour]) -> None:
    """Send them all, as many at once as a request takes."""
    url = f"{server.url}/{'classify' if task == 'single' else 'tag'}?model={model}"
    for start in range(0, len(pictures), PARTS_MAX):
        parts = [
            ("image", ("picture.jpg", tiny_models.picture(colour), "image/jpeg"))
            for colour in pictures[start : start + PARTS_MAX]
        ]
        httpx.post(url, files=parts, timeout=30).raise_for_status()
