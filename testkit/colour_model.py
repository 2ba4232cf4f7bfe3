"""Images of colours, a tiny model whose baseline and novelty were measured on them, and requests to
it.
"""

from collections.abc import Sequence
from pathlib import Path

import httpx
import numpy as np

from models.conformal import HeldOut
from models.manifest import Baseline, Manifest, Task
from models.preprocess import decode
from models.store import Store
from serving.settings import PARTS_MAX
from testkit import novel_models, tiny_models
from testkit.servers import Server
from training.evaluation.decisions import baseline, decide

Colour = tuple[int, int, int]
VALIDATION_IMAGES = 600
RED: Colour = (200, 30, 30)


def colours(random: np.random.Generator, count: int, above: int = 140) -> list[Colour]:
    """Each has one channel above the others by less than `above`; less is harder to classify."""
    found = random.integers(0, 110, (count, 3))
    strongest = random.choice(3, count, p=[0.4, 0.3, 0.3])
    rows = np.arange(count)
    found[rows, strongest] = found.max(axis=1) + random.integers(2, above, count)
    return [(red, green, blue) for red, green, blue in found.tolist()]


def measured_baseline(manifest: Manifest, colours: Sequence[Colour]) -> Baseline:
    """The baseline of a tiny model on these colours: scores in NumPy, counts by training's code."""
    images = [decode(tiny_models.picture(colour), manifest.preprocess) for colour in colours]
    scores = tiny_models.reference_scores(np.stack(images), manifest.task)
    return baseline(scores, decide(scores, manifest.thresholds))


def measured_novelty(manifest: Manifest, colours: Sequence[Colour]) -> HeldOut:
    """What these colours promise, as held-out images whose likeliest label is the right one."""
    images = [decode(tiny_models.picture(colour), manifest.preprocess) for colour in colours]
    novelty = np.sort(novel_models.reference_novelty(np.stack(images)))
    return HeldOut(novelty, np.zeros(len(colours)) if manifest.task == "single" else None)


def add(store: Path, name: str, task: Task, validation: Sequence[Colour]) -> None:
    """Add a tiny model with a baseline, and p-values of novelty, measured on these colours."""

    def make(version: int) -> tuple[Manifest, dict[str, bytes]]:
        plain, _ = tiny_models.content(name, version, task)
        known = measured_novelty(plain, validation)
        manifest, files = novel_models.content(name, version, task, known=known)
        return manifest.model_copy(
            update={"baseline": measured_baseline(manifest, validation)}
        ), files

    Store(store).add(name, make)


def ask(server: Server, task: Task, model: str, colours: Sequence[Colour]) -> None:
    """Send images of all these colours, as many at once as a request may have."""
    url = f"{server.url}/{'classify' if task == 'single' else 'tag'}?model={model}"
    for start in range(0, len(colours), PARTS_MAX):
        parts = [
            ("image", ("image.jpg", tiny_models.picture(colour), "image/jpeg"))
            for colour in colours[start : start + PARTS_MAX]
        ]
        httpx.post(url, files=parts, timeout=30).raise_for_status()
