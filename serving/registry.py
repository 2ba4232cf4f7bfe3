"""The served models: loads them, verifies them on their golden images, and swaps versions.

A swap loads and verifies the released version while the old one is still served, and then replaces
it atomically: every answer comes from exactly one version. A version that fails never replaces one
that works.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from models import bundle
from models.errors import BadParameter, BundleError, LabradorError, ModelUnknown, NotReady
from models.manifest import Manifest, Task, Variant
from models.store import Store
from serving.batcher import Batcher
from serving.metrics import Metrics
from serving.session import Place, Session, open_proved
from serving.settings import Settings

log = logging.getLogger(__name__)

ENDPOINTS: dict[Task, str] = {"single": "/classify", "multi": "/tag"}


@dataclass(frozen=True)
class Served:
    """One version of a model that is being served."""

    path: Path
    manifest: Manifest
    variant: Variant
    why: str
    provider: str
    batcher: Batcher


class Registry:
    """Not ready, with a reason, until `load` has verified every model."""

    def __init__(self, settings: Settings, metrics: Metrics, threads: int, worker: int) -> None:
        """threads: CPU threads per run. worker: 0, 1, …; selects the GPU."""
        self._settings = settings
        self._store = Store(settings.model_store)
        self._metrics = metrics
        self._place = Place(threads, worker)
        self._failed: dict[str, Path] = {}  # name -> the version that could not be swapped in
        self._retiring: set[asyncio.Task[None]] = set()
        self._unready: str | None = "loading"
        self.draining = False
        self.served: dict[str, Served] = {}

    async def load(self) -> None:
        """Load and verify all models. Never raises: an error becomes the reason of NotReady."""
        try:
            await self._load()
        except LabradorError as error:
            self._unready = str(error)
        except Exception as error:
            log.exception("loading failed")
            self._unready = f"loading failed with {type(error).__name__}; see the log"
        else:
            self._unready = None
            return
        log.error("not ready: %s", self._unready)

    async def follow(self) -> None:
        """Load; then, unless RELOAD_S is 0, check the store regularly and serve new releases."""
        await self.load()
        while self._settings.reload_s:
            await asyncio.sleep(self._settings.reload_s)
            try:
                references = self._references()
            except OSError as error:
                log.error("the store cannot be read: %s", error)
                continue
            if self._unready is not None:
                await self.load()
            else:
                for reference in references:
                    await self._renew(reference)

    async def _renew(self, reference: str) -> None:
        """Serve the version that `reference` refers to now. A version that fails is tried once."""
        name = reference.partition(":")[0]
        try:
            path = self._store.path(reference)
        except (LabradorError, OSError) as error:  # keep the old one; it may work at the next check
            log.error("%s: %s", name, error)
            return
        old = self.served.get(name)
        if path == self._failed.get(name) or (old is not None and path == old.path):
            return
        try:
            new = await self._start(path)
        except Exception as error:
            self._failed[name] = path
            self._metrics.reloads.labels(name, "failed").inc()
            log.error("%s is not served: %s: %s", path, type(error).__name__, error)
            return
        self._failed.pop(name, None)
        self.served[name] = new
        self._metrics.model_ready.labels(name).set(1)
        self._metrics.reloads.labels(name, "swapped").inc()
        if old is not None:
            retiring = asyncio.create_task(old.batcher.retire())
            self._retiring.add(retiring)
            retiring.add_done_callback(self._retiring.discard)

    def _references(self) -> Sequence[str]:
        return self._settings.models or self._store.names()

    async def _load(self) -> None:
        references = self._references()
        if not references:
            raise BundleError(f"there is no model in {self._store.root}")
        for reference in references:
            self._metrics.model_ready.labels(reference.partition(":")[0]).set(0)
        for reference in references:
            name = reference.partition(":")[0]
            if name not in self.served:
                self.served[name] = await self._start(self._store.path(reference))
            self._metrics.model_ready.labels(name).set(1)

    async def _start(self, path: Path) -> Served:
        manifest, session = await asyncio.to_thread(self._open, path)
        metrics = self._metrics.of(manifest.name)
        batcher = Batcher(session.run, metrics, session.max_batch, self._settings.max_queue)
        self._metrics.expect(manifest)
        variant, why = session.variant, session.why
        log.info(
            "%s:%s runs in %s on %s (%s)",
            *naming(manifest).values(),
            variant.precision,
            session.provider,
            why,
        )
        return Served(path, manifest, variant, why, session.provider, batcher)

    def _open(self, path: Path) -> tuple[Manifest, Session]:
        """Load and verify a bundle. Its files are freed then; the session has its own copy."""
        whole = bundle.read(path)
        return whole.manifest, open_proved(whole, self._settings, self._place)

    def drain(self) -> None:
        """Report not ready, so that no new work is sent here, and keep serving."""
        self.draining = True

    async def close(self) -> None:
        for retiring in self._retiring:
            retiring.cancel()
        for served in self.served.values():
            await served.batcher.close()

    def check_loaded(self) -> None:
        """Raises NotReady, with the reason, until every model is verified."""
        if self._unready is not None:
            raise NotReady(self._unready)

    def check_ready(self) -> None:
        """Raises NotReady while no new work should be sent: also when draining or after a fault."""
        self.check_loaded()
        if self.draining:
            raise NotReady("draining: this worker is about to stop")
        self.check_alive()

    def check_alive(self) -> None:
        """Raises NotReady if a model must be considered dead; only a restart helps."""
        for name, served in self.served.items():
            if fault := served.batcher.fault(self._settings.timeout_s):
                self._metrics.model_ready.labels(name).set(0)
                raise NotReady(f"{name}: {fault}")
            self._metrics.model_ready.labels(name).set(1)

    def check_accepts(self, task: Task) -> None:
        """Raises NotReady until every model is verified, and Overloaded if no model of the task has
        room for an image. Called before a body is read, which keeps refusals cheap under load.
        """
        self.check_loaded()
        batchers = [s.batcher for s in self.served.values() if s.manifest.task == task]
        if batchers:
            max(batchers, key=lambda batcher: batcher.room).check_room(1)

    def choose(self, task: Task, name: str | None) -> Served:
        """The model `name`, or the only one of the task. Raises the errors of `pick`."""
        return pick(self.served, task, name)


class _HasManifest(Protocol):
    @property
    def manifest(self) -> Manifest: ...


Model = TypeVar("Model", bound=_HasManifest)


def pick(models: Mapping[str, Model], task: Task, name: str | None) -> Model:
    """The model to use, of `models` by name: `name`, or the only one of the task.

    name: NAME, or NAME:VERSION to be answered by that version only. Raises ModelUnknown if there is
    none, BadParameter if there are several or `name` is a model of the other task.
    """
    names = [n for n, model in models.items() if model.manifest.task == task]
    if name is None:
        if len(names) == 1:
            return models[names[0]]
        if names:
            raise BadParameter(f"several models are served; choose model={' or '.join(names)}")
        raise ModelUnknown(f"no {task}-label model is served; GET /models lists the served models")
    name, _, version = name.partition(":")
    if name not in models:
        raise ModelUnknown(f"unknown model {name!r:.80}; valid: {', '.join(names) or 'none'}")
    if name not in names:
        other = models[name].manifest.task
        raise BadParameter(f"{name} is a {other}-label model: use {ENDPOINTS[other]}")
    served = str(models[name].manifest.version)
    if version not in ("", served):
        raise ModelUnknown(
            f"{name} is served in version {served}, not {version!r:.20}: use model={name}, or"
            f" model={name}:{served}"
        )
    return models[name]


def naming(manifest: Manifest) -> dict[str, str]:
    """The name and version of a model, as included in every answer."""
    return {"name": manifest.name, "version": str(manifest.version)}
