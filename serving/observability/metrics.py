"""The service's Prometheus metrics, summed over the workers through files in a shared folder.

Every label's values are a closed set: declared endpoints, served models, their labels, codes.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, get_args

import numpy as np
from numpy.typing import NDArray

from models.captured import Why
from models.decision import above
from models.manifest import Manifest, Variant
from serving.observability import tracing
from serving.observability.nvml import Gpus
from serving.observability.observation import Observation, Stage
from serving.timing import Speed

if TYPE_CHECKING:
    from prometheus_client import Metric

# Set once per server: its supervisor creates the folder before it starts the workers.
FOLDER_VARIABLE = "PROMETHEUS_LABRADOR_DIR"
# The files are mapped: where their disk is full, the kernel ends a process that writes to them
# (SIGBUS), and so each worker after it. Others fill a /tmp, but hardly the shared memory.
_SHARED_MEMORY = Path("/dev/shm")

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_SHARES = tuple(n / 20 for n in range(1, 21))


def new_folder() -> str:
    """A new folder for the metrics of one server's workers."""
    in_memory = _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else None
    return tempfile.mkdtemp(prefix="labrador-metrics-", dir=in_memory)


class Metrics:
    """All metrics of one worker, written to `folder`. Create one per process."""

    def __init__(self, folder: Path) -> None:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
        # The library chooses its storage by this variable, when it is imported.
        from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram

        self._folder = folder
        self._gpus = Gpus()
        self.content_type = CONTENT_TYPE_LATEST
        # no registry: a scrape collects the files of all workers
        counter, gauge = partial(Counter, registry=None), partial(Gauge, registry=None)
        histogram = partial(Histogram, registry=None)

        self.requests = counter(
            "labrador_requests_total",
            "Requests answered, by HTTP status; 499: the client disconnected, or a deadline that it"
            " had set itself passed",
            ["endpoint", "model", "code"],
        )
        self.request_seconds = histogram(
            "labrador_request_seconds",
            "Time from a request's headers to the end of its answer",
            ["endpoint", "model"],
            buckets=_SECONDS,
        )
        self.stage_seconds = histogram(
            "labrador_stage_seconds",
            "Time of one stage of a request; infer: of a batch. A request has no model while it is"
            " read",
            ["stage", "model"],
            buckets=_SECONDS,
        )
        self.rejected = counter(
            "labrador_rejected_total",
            "Refused requests, or images of a request with several, by problem code",
            ["reason"],
        )
        self.dropped = counter(
            "labrador_dropped_total",
            "Images that never reached the model because nobody waited for them any more",
            ["reason"],
        )
        for reason in ("expired", "disconnected"):
            self.dropped.labels(reason)
        self.batch_size = histogram(
            "labrador_batch_size", "Images per run", ["model"], buckets=_IMAGES
        )
        self.queue_images = gauge(
            "labrador_queue_images",
            "Images waiting for their model",
            ["model"],
            multiprocess_mode="livesum",
        )
        self.held_images = gauge(
            "labrador_held_images",
            "Images that a model holds: being decoded, waiting or running",
            ["model"],
            multiprocess_mode="livesum",
        )
        self.held_images_limit = gauge(
            "labrador_held_images_limit",
            "Where refusing begins: MAX_QUEUE of every worker",
            ["model"],
            multiprocess_mode="livesum",
        )
        self.predictions = counter(
            "labrador_predictions_total",
            "Predicted labels: the most likely label of each image, or its tags",
            ["model", "label"],
        )
        self.unknown = counter(
            "labrador_unknown_total",
            "Images that are called unknown, at the model's own alpha; of the images that"
            " labrador_confidence counts",
            ["model"],
        )
        self.confidence = histogram(
            "labrador_confidence", "Highest score of each image", ["model"], buckets=_SHARES
        )
        self.model_ready = gauge(
            "labrador_model_ready",
            "1 if every worker has verified the model on its golden images",
            ["model"],
            multiprocess_mode="livemin",
        )
        self.reloads = counter(
            "labrador_reload_total",
            "Versions swapped in while serving, and those that failed",
            ["model", "result"],
        )
        self.store_seen = gauge(
            "labrador_store_seen_timestamp_seconds",
            "When the store was last read, by the worker whose last time is longest ago",
            multiprocess_mode="livemin",
        )
        self.store_failures = counter(
            "labrador_store_failures_total", "Looks at the store that failed or took too long"
        )
        self.captured = counter(
            "labrador_captured_total",
            "Images that were kept to train on, by why; one with several reasons counts for each",
            ["model", "why"],
        )
        self.capture_dropped = counter(
            "labrador_capture_dropped_total",
            "Images that were to be kept and are not; budget: more than CAPTURE_IMAGES_PER_H; slow:"
            " the folder does not keep up; full, unwritable: the folder; duplicate: kept before;"
            " metadata: it cannot be taken out; failed: see the log",
            ["reason"],
        )
        for reason in ("budget", "slow", "full", "unwritable", "duplicate", "metadata", "failed"):
            self.capture_dropped.labels(reason)
        self.captured_bytes = gauge(
            "labrador_captured_bytes",
            "What the folder of captured images holds, as last seen by a worker",
            multiprocess_mode="livemax",
        )
        gauge("labrador_workers", "Workers that are alive", multiprocess_mode="livesum").set(1)

    def of(self, model: str) -> "ModelMetrics":
        """Those of a model's queue and runs. model: the name of a served model."""
        return ModelMetrics(self, model)

    def expect(self, manifest: Manifest) -> None:
        """Start the model's counters at 0: rate() does not count a series' first value."""
        self.confidence.labels(manifest.name)
        for stage in get_args(Stage):
            self.stage_seconds.labels(stage, "" if stage == "read" else manifest.name)
        if manifest.tensors.novelty is not None:
            self.unknown.labels(manifest.name)
        for label in manifest.labels:
            self.predictions.labels(manifest.name, label)
        for result in ("swapped", "failed"):
            self.reloads.labels(manifest.name, result)
        for why in get_args(Why):
            self.captured.labels(manifest.name, why)

    @contextmanager
    def stage(self, name: Stage, observed: Observation) -> Iterator[None]:
        """Time a stage of a request."""
        start_s = perf_counter()
        try:
            yield
        finally:
            end_s = perf_counter()
            self.stage_seconds.labels(name, observed.model).observe(end_s - start_s)
            observed.add(name, start_s, end_s)

    def drop(self, expired: bool) -> None:
        """Count an image that won't reach the model: deadline passed or client disconnected."""
        self.dropped.labels("expired" if expired else "disconnected").inc()

    def observe_scores(
        self, scores: NDArray[np.float32], manifest: Manifest, unknown: bool = False
    ) -> None:
        """Count an image's predicted labels, by the model's own thresholds, and whether it is
        unknown, by its own alpha. scores: `[C]`.
        """
        if unknown:
            self.unknown.labels(manifest.name).inc()
        self.confidence.labels(manifest.name).observe(float(scores.max()))
        if manifest.thresholds is None:
            predicted = np.array([scores.argmax()])
        else:
            predicted = np.flatnonzero(above(scores, manifest.thresholds))
        for index in predicted:
            self.predictions.labels(manifest.name, manifest.labels[index]).inc()

    def scrape(self, served: Iterable[tuple[Manifest, Variant, str, Sequence[Speed]]]) -> bytes:
        """The text for Prometheus, summed over all workers. served: each with its provider, and the
        speeds of its forms.

        Series about the versions served now are created here: in the shared files they would stay
        for ever.
        """
        from prometheus_client import generate_latest
        from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily
        from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
        from prometheus_client.utils import floatToGoString

        info = GaugeMetricFamily(
            "labrador_model_info",
            "What this worker serves",
            labels=["model", "version", "provider", "precision", "sha256"],
        )
        speeds = GaugeMetricFamily(
            "labrador_variant_images_per_second",
            "What each form of the network that this worker could serve answered, timed when the"
            " model was loaded; none if there was no choice",
            labels=["model", "provider", "precision", "batch"],
        )
        shares = GaugeMetricFamily(
            "labrador_baseline_share",
            "Share of the validation images for which the label was predicted: the reference for"
            " labrador_predictions_total",
            labels=["model", "label"],
        )
        confidences = HistogramMetricFamily(
            "labrador_baseline_confidence",
            "Highest score of each validation image: the reference for labrador_confidence; the"
            " sum is estimated from the bins' middles",
            labels=["model"],
        )
        alphas = GaugeMetricFamily(
            "labrador_baseline_alpha",
            "Largest share of images like the validation images that is called unknown: the"
            " reference for labrador_unknown_total",
            labels=["model"],
        )
        images = GaugeMetricFamily(
            "labrador_baseline_novelty_images",
            "Validation images by which a model tells what is unknown",
            labels=["model"],
        )
        for manifest, variant, provider, timed in served:
            name, sha256 = manifest.name, manifest.files[variant.file]
            info.add_metric([name, str(manifest.version), provider, variant.precision, sha256], 1)
            for speed in timed:
                form = [name, speed.provider, speed.precision, str(speed.batch)]
                speeds.add_metric(form, speed.images_per_second)
            baseline = manifest.baseline
            for label, share in zip(manifest.labels, baseline.label_share, strict=True):
                shares.add_metric([name, label], share)
            edges, counts = baseline.confidence_edges, baseline.confidence_counts
            middles = (np.array(edges) + np.array([0, *edges[:-1]])) / 2
            les = [floatToGoString(edge) for edge in edges]  # type: ignore[no-untyped-call]
            below = np.cumsum(counts).tolist()
            buckets = [*zip(les, below, strict=True), ("+Inf", below[-1])]
            confidences.add_metric([name], buckets, float(middles @ counts))
            if manifest.conformal is not None and manifest.tensors.novelty is not None:
                alphas.add_metric([name], manifest.conformal.alpha)
                images.add_metric([name], manifest.conformal.images)
        for file in self._folder.glob("gauge_live*.db"):
            if not _is_alive(pid := int(file.stem.rpartition("_")[2])):
                # removes its gauges and keeps its counters
                with suppress(FileNotFoundError):  # another worker does the same
                    mark_process_dead(pid, str(self._folder))  # type: ignore[no-untyped-call]
        shared = MultiProcessCollector(None, str(self._folder))  # type: ignore[no-untyped-call]
        families = [*shared.collect(), info, speeds]  # type: ignore[no-untyped-call]
        families += [shares, confidences, alphas, images]
        families += self._gpus.families()
        return generate_latest(_Families(families))


class ModelMetrics:
    """The metrics of one model's queue and runs, in one worker."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self.drop = metrics.drop
        self.batch_size = metrics.batch_size.labels(model)
        self.queue_images = metrics.queue_images.labels(model)
        self.held_images = metrics.held_images.labels(model)
        self.held_images_limit = metrics.held_images_limit.labels(model)
        self.queue_seconds = metrics.stage_seconds.labels("queue", model)
        self.infer_seconds = metrics.stage_seconds.labels("infer", model)
        self._model = model

    def queued(self, observed: Observation, since_s: float) -> None:
        """An image of this request leaves the queue, to run."""
        now_s = perf_counter()
        self.queue_seconds.observe(now_s - since_s)
        observed.add("queue", since_s, now_s)

    def ran(self, batch: Sequence[Observation], start_s: float, end_s: float) -> None:
        """A batch with an image of each of these requests has run."""
        self.infer_seconds.observe(end_s - start_s)
        tracing.add_batch(batch, self._model, start_s, end_s)
        for observed in batch:
            observed.add("infer", start_s, end_s)


class _Families:
    """A collector, as `generate_latest` expects it."""

    def __init__(self, families: list["Metric"]) -> None:
        self._families = families

    def collect(self) -> list["Metric"]:
        return self._families


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:  # there is none, or it is another user's and so no worker
        return False
    return True
