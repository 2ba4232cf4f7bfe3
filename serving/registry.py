"""The served models: which versions answer requests, and why a model does not.

The follower (`serving/follower.py`) loads them and swaps versions; requests choose among them.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from models.conformal import HeldOut
from models.errors import BadParameter, ModelUnknown, NotReady
from models.manifest import Manifest, Task, Variant
from serving.batcher import Batcher
from serving.observability.metrics import Metrics
from serving.settings import Settings
from serving.timing import Speed

ENDPOINTS: dict[Task, str] = {"single": "/classify", "multi": "/tag"}


@dataclass(frozen=True)
class Served:
    """One version of a model that is being served. reference: NAME:VERSION; speeds: of the forms
    that `auto` timed; samples: JPEG files that a person may try; held_out: the images that its
    promises are made by.
    """

    reference: str
    manifest: Manifest
    variant: Variant
    why: str
    provider: str
    batcher: Batcher
    speeds: tuple[Speed, ...] = ()
    samples: Sequence[bytes] = ()
    held_out: HeldOut | None = None


class Registry:
    """Not ready, with a reason, until every model has been tried and at least one is served, or all
    if the settings say so. Else a new server would call a model unknown that it still loads.

    served: by name. not_served: the reason, by name. problem: what keeps all of them from being
    served, None if nothing does.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._retiring: set[asyncio.Task[None]] = set()
        self.problem: str | None = "loading"
        self.draining = False
        self.served: dict[str, Served] = {}
        self.not_served: dict[str, str] = {}

    def serve(self, name: str, new: Served) -> None:
        """Answer by `new` from now on; the version before answers what it has admitted."""
        old = self.served.get(name)
        self.served[name] = new
        self.not_served.pop(name, None)
        self._metrics.model_ready.labels(name).set(1)
        if old is not None:
            retiring = asyncio.create_task(old.batcher.retire())
            self._retiring.add(retiring)
            retiring.add_done_callback(self._retiring.discard)

    def cannot_serve(self, name: str, reason: str) -> None:
        """Note why a model is not served; one that is served stays."""
        if name not in self.served:
            self.not_served[name] = reason
            self._metrics.model_ready.labels(name).set(0)

    def drain(self) -> None:
        """Report not ready, so that no new work is sent here, and keep serving."""
        self.draining = True

    async def close(self) -> None:
        for retiring in self._retiring:
            retiring.cancel()
        for served in self.served.values():
            await served.batcher.close()

    def check_loaded(self) -> None:
        """Raises NotReady, with the reason, while no model is served or a required one is not."""
        if self.problem is not None:
            raise NotReady(self.problem)
        if self.not_served and (self._settings.require_all_models or not self.served):
            raise NotReady("; ".join(f"{name}: {why}" for name, why in self.not_served.items()))

    def check_ready(self) -> None:
        """Raises NotReady while no new work should be sent: also when draining or after a fault."""
        self.check_loaded()
        if self.draining:
            raise NotReady("draining: this worker is about to stop")
        self.check_alive()

    def check_alive(self) -> None:
        """Raises NotReady if a model has to be considered dead; only a restart helps."""
        for name, served in self.served.items():
            if fault := served.batcher.fault(self._settings.timeout_s):
                self._metrics.model_ready.labels(name).set(0)
                raise NotReady(f"{name}: {fault}")
            self._metrics.model_ready.labels(name).set(1)

    def check_accepts(self, task: Task) -> None:
        """Raises NotReady while no model is served, and Overloaded if no model of the task has
        room for an image. Called before a body is read, which keeps refusals cheap under load.
        """
        self.check_loaded()
        batchers = [s.batcher for s in self.served.values() if s.manifest.task == task]
        if batchers:
            max(batchers, key=lambda batcher: batcher.room).check_room(1)

    def choose(self, task: Task, name: str | None) -> Served:
        """The model `name`, or the only one of the task.

        Raises the errors of `pick`, and NotReady for a model that should be served and is not.
        """
        if name is not None:
            self._check_served(name.partition(":")[0])
        return pick(self.served, task, name)

    def named(self, name: str, version: str | None = None) -> Served:
        """The model of this name, whatever its task, in this version where one is given.

        Raises NotReady for a model that should be served and is not, and ModelUnknown.
        """
        self.check_loaded()
        self._check_served(name)
        if name not in self.served:
            valid = ", ".join(self.served) or "none"
            raise ModelUnknown(f"unknown model {name!r:.80}; valid: {valid}")
        served = self.served[name]
        if version not in (None, str(served.manifest.version)):
            raise ModelUnknown(
                f"{name} is served in version {served.manifest.version}, not {version!r:.20}"
            )
        return served

    def _check_served(self, name: str) -> None:
        """Raises NotReady for a model that should be served and is not."""
        if why := self.not_served.get(name):
            raise NotReady(f"{name} is not served: {why}")


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
