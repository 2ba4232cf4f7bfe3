"""Keeps some of the images that were answered, in LABRADOR_CAPTURE, to correct and to train on.

Whether an image is kept is decided in microseconds, after its answer; a thread writes it. Where the
folder is full, slow or gone, images are counted and dropped, and nobody waits.
"""

import datetime
import logging
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.bundle import sha256
from models.captured import SUFFIXES, Captured, Why
from models.decision import above, rank
from models.errors import LabradorError
from models.manifest import Manifest
from models.preprocess import image_format
from serving.capture.captured_folder import CapturedFolder, reason
from serving.capture.picture_metadata import without_metadata
from serving.capture.selection import Selection
from serving.observability.metrics import Metrics
from serving.settings import Settings

log = logging.getLogger(__name__)

_WAITING_BYTES = 32 * 2**20  # of images that wait for the disk
_TIDY_S = 60.0
_CLOSE_S = 1.0
_SCORES = 20  # the likeliest labels that are kept with an image

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class _Waiting:
    image: bytes
    scores: Scores
    manifest: Manifest
    why: tuple[Why, ...]
    at: datetime.datetime


class Capture:
    """One worker's. `offer` and `close` are called on the event loop."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        assert settings.capture is not None
        self._metrics = metrics
        max_bytes = int(settings.capture_max_mb * 2**20)
        self._folder = CapturedFolder(settings.capture, max_bytes, settings.capture_days)
        self._selection = Selection(settings.capture_share, settings.capture_images_per_h)
        self._room = max(_WAITING_BYTES, int(settings.max_body_mb * 2**20))
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._failing = False
        self._thread = threading.Thread(target=self._work, name="capture", daemon=True)
        self._thread.start()

    def offer(
        self, image: bytes, scores: Scores, manifest: Manifest, unknown: bool = False
    ) -> None:
        """Keep the image, if there is a reason. scores: its answer, `[C]`, finite."""
        reasons = self._selection.reasons(scores, manifest, unknown)
        if not reasons:
            return
        why = self._selection.afforded(reasons)
        if not why:
            self._drop("budget")
            return
        with self._lock:
            fits = len(image) <= self._room
            self._room -= len(image) if fits else 0
        if not fits:
            self._drop("slow")
            return
        now = datetime.datetime.now(datetime.UTC)
        self._waiting.put(_Waiting(image, scores.copy(), manifest, why, now))

    def close(self) -> None:
        """Give the thread a moment for what is waiting; a folder that hangs keeps nobody."""
        self._waiting.put(None)
        self._thread.join(_CLOSE_S)

    def _work(self) -> None:
        tidied_s = -_TIDY_S
        while True:
            if time.monotonic() - tidied_s >= _TIDY_S:
                tidied_s = time.monotonic()
                self._tidy()
            try:
                waiting = self._waiting.get(timeout=_TIDY_S)
            except queue.Empty:
                continue
            if waiting is None:
                return
            self._keep(waiting)
            with self._lock:
                self._room += len(waiting.image)

    def _keep(self, waiting: _Waiting) -> None:
        try:
            picture = without_metadata(waiting.image)
            if not self._folder.keep(_answer(waiting), picture):
                self._drop("duplicate")
                return
        except OSError as error:
            self._drop(reason(error))
            self._fail(error)
            return
        except (ValueError, LabradorError):
            self._drop("metadata")
            return
        except Exception:
            self._drop("failed")
            log.exception("an image could not be kept")
            return
        if self._failing:
            self._failing = False
            log.info("images are kept again")
        for why in waiting.why:
            self._metrics.captured.labels(waiting.manifest.name, why).inc()
        self._metrics.captured_bytes.set(self._folder.held_bytes)

    def _tidy(self) -> None:
        try:
            self._folder.tidy()
            self._metrics.captured_bytes.set(self._folder.held_bytes)
        except OSError as error:
            self._fail(error)

    def _drop(self, why: str) -> None:
        self._metrics.capture_dropped.labels(why).inc()

    def _fail(self, error: OSError) -> None:
        """Say it once, until it works again."""
        if not self._failing:
            self._failing = True
            log.error("images cannot be kept: %s", error)


def _answer(waiting: _Waiting) -> Captured:
    manifest, scores = waiting.manifest, waiting.scores
    order = rank(scores).tolist()
    if manifest.thresholds is None:
        answered = order[:1]
    else:
        tags = above(scores, manifest.thresholds)
        answered = [index for index in order if tags[index]]
    digest = sha256(waiting.image)
    return Captured(
        sha256=digest,
        file=digest + SUFFIXES[image_format(waiting.image)],
        time=waiting.at.isoformat(timespec="seconds"),
        why=waiting.why,
        model=manifest.name,
        version=manifest.version,
        task=manifest.task,
        labels=_labels(manifest, answered),
        scores={
            manifest.labels[index]: float(scores[index])
            for place, index in enumerate(order)
            if place < _SCORES or index in answered
        },
    )


def _labels(manifest: Manifest, indices: Sequence[int]) -> tuple[str, ...]:
    return tuple(manifest.labels[index] for index in indices)
