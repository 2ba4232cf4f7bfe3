"""The models that are served: loaded, proved on their golden images, and chosen by name."""

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

from models import bundle
from models.errors import BadParameter, BundleError, LabradorError, ModelUnknown, NotReady
from models.manifest import Manifest, Task
from models.store import Store
from serving.batcher import Batcher
from serving.metrics import Metrics
from serving.session import Session
from serving.settings import Settings

log = logging.getLogger(__name__)

ENDPOINTS: dict[Task, str] = {"single": "/classify", "multi": "/tag"}


@dataclass(frozen=True)
class Served:
    manifest: Manifest
    provider: str
    batcher: Batcher


class Registry:
    """Not ready, with a reason, until `load` has proved every model."""

    def __init__(self, settings: Settings, metrics: Metrics, threads: int, worker: int) -> None:
        """threads: CPU threads of a run. worker: 0, 1, …; it picks the GPU."""
        self._settings = settings
        self._metrics = metrics
        self._threads = threads
        self._worker = worker
        self._unready: str | None = "loading"
        self.draining = False
        self.served: dict[str, Served] = {}

    async def load(self) -> None:
        """Load and prove all models. Never raises: what fails is the reason for not being ready."""
        try:
            await self._load(Store(self._settings.model_store))
        except LabradorError as error:
            self._unready = str(error)
        except Exception as error:
            log.exception("loading failed")
            self._unready = f"loading failed with {type(error).__name__}; the log says more"
        else:
            self._unready = None
            return
        log.error("not ready: %s", self._unready)

    async def _load(self, store: Store) -> None:
        references = self._settings.models or store.names()
        if not references:
            raise BundleError(f"there is no model in {store.root}")
        for reference in references:
            self._metrics.model_ready.labels(reference.partition(":")[0]).set(0)
        for reference in references:
            manifest, session = await asyncio.to_thread(self._open, store.path(reference))
            batcher = Batcher(
                session.run, self._metrics, self._settings.max_batch, self._settings.max_queue
            )
            self.served[manifest.name] = Served(manifest, session.provider, batcher)
            self._metrics.model_ready.labels(manifest.name).set(1)
            log.info("%s:%s works on %s", manifest.name, manifest.version, session.provider)

    def _open(self, path: Path) -> tuple[Manifest, Session]:
        """The bundle's files are let go afterwards; the session has its own copy."""
        whole = bundle.read(path)
        session = Session(
            whole, self._settings.device, self._threads, self._worker, self._settings.max_batch
        )
        session.prove(whole)
        return whole.manifest, session

    def drain(self) -> None:
        """Say not ready, so that nobody sends new work here, and go on serving."""
        self.draining = True

    async def close(self) -> None:
        for served in self.served.values():
            await served.batcher.close()

    def check_loaded(self) -> None:
        """Raises NotReady, with the reason, until every model is proved."""
        if self._unready is not None:
            raise NotReady(self._unready)

    def check_ready(self) -> None:
        """Raises NotReady while no new work should come: also when draining or after a fault."""
        self.check_loaded()
        if self.draining:
            raise NotReady("draining: this worker stops soon")
        self.check_alive()

    def check_alive(self) -> None:
        """Raises NotReady if a model must be taken for dead; only a restart helps."""
        for name, served in self.served.items():
            if fault := served.batcher.fault(self._settings.timeout_s):
                raise NotReady(f"{name}: {fault}")

    def choose(self, task: Task, name: str | None) -> Served:
        """The model `name`, or the only one of the task.

        Raises ModelUnknown if there is none, BadParameter if there are several or `name` does the
        other task.
        """
        names = [n for n, served in self.served.items() if served.manifest.task == task]
        if name is None:
            if len(names) == 1:
                return self.served[names[0]]
            if names:
                raise BadParameter(f"several models are served; choose model={' or '.join(names)}")
            raise ModelUnknown(f"no {task}-label model is served; GET /models lists what is")
        if name not in self.served:
            raise ModelUnknown(f"no model {name!r:.80}; served here: {', '.join(names) or 'none'}")
        if name not in names:
            other = self.served[name].manifest.task
            raise BadParameter(f"{name} is a {other}-label model: use {ENDPOINTS[other]}")
        return self.served[name]


def naming(manifest: Manifest) -> dict[str, str]:
    """The model an answer comes from, as every answer names it."""
    return {"name": manifest.name, "version": str(manifest.version)}
