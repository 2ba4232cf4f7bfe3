"""Follows the store: loads the released versions, verifies them, and swaps them in.

A swap loads and verifies the new version while the old one is still served, and then replaces it
atomically: every answer comes from exactly one version. A version that fails never replaces one
that works, and a store that is slow, wrong or gone never touches what is served.
"""

import asyncio
import logging
import random
from collections.abc import Sequence
from functools import partial

from models.errors import BundleError, KeysError, LabradorError
from models.golden import samples
from models.hardware import free_memory
from models.manifest import Manifest
from serving.aside import Aside
from serving.batcher import Batcher
from serving.forms import open_proved
from serving.observability.metrics import Metrics
from serving.registry import Registry, Served, naming
from serving.session import Place, Session
from serving.settings import Settings

log = logging.getLogger(__name__)

LONGEST_PAUSE_S = 60  # between looks at a store that fails
_OPEN_LIMIT_S = 600  # to read, load and verify a version
_MEMORY_PER_BYTE = 2  # of a bundle, while it is read and loaded
_DOUBLINGS = 10  # of the pause, at most
_RETRY_S = 1  # between looks where RELOAD_S is 0 and a model is missing


class NoRoomError(LabradorError):
    """A version that does not fit into memory beside the one that is served; it is tried again."""


class Follower:
    """Keeps a registry at what is released. One per worker."""

    def __init__(
        self, settings: Settings, registry: Registry, metrics: Metrics, place: Place
    ) -> None:
        self._settings = settings
        self._store = settings.store()
        self._registry = registry
        self._metrics = metrics
        self._place = place
        self._aside = Aside()
        self._bad: dict[str, str] = {}  # name -> the version that is not tried again
        self._said: dict[str, str] = {}  # name -> the last line about it, while it is true
        self._failed = False  # in this look
        self._failures = 0  # looks in a row

    async def follow(self) -> None:
        """Load, and go on looking: every RELOAD_S, or until all models are served if it is 0."""
        await self.look()
        while self._settings.reload_s or self._registry.problem or self._registry.not_served:
            await asyncio.sleep(self._pause_s())
            await self.look()

    def _pause_s(self) -> float:
        """Longer after failures, and never the same in all workers and pods."""
        usual_s = self._settings.reload_s or _RETRY_S
        longest_s = max(usual_s, LONGEST_PAUSE_S)
        return min(usual_s * 2.0**self._failures, longest_s) * random.uniform(0.8, 1.2)

    async def look(self) -> None:
        """Serve what is released now. Never raises: an error is logged, counted and shown."""
        self._failed = False
        problem = None
        try:
            await self._look()
        except LabradorError as error:
            problem = str(error)
        except OSError as error:  # a TimeoutError is one
            self._count_failure(error)
            problem = f"the store cannot be read: {error}"
        except Exception as error:
            log.exception("loading failed")
            problem = f"loading failed with {type(error).__name__}; see the log"
        if problem is not None:
            self._failed = True
        registry = self._registry
        if problem != registry.problem and problem is not None and not registry.served:
            log.error("not ready: %s", problem)
        registry.problem = None if registry.served else problem
        self._failures = min(self._failures + 1, _DOUBLINGS) if self._failed else 0

    async def _look(self) -> None:
        """Raises BundleError if there is no model, OSError if the store cannot be read in time."""
        registry = self._registry
        released = await self._aside.run(self._released, self._settings.store_timeout_s)
        errors = [found for found in released.values() if isinstance(found, Exception)]
        if len(errors) < len(released):
            self._metrics.store_seen.set_to_current_time()
        elif registry.served and not any(map(_is_the_stores, errors)):  # those are counted below
            self._count_failure(BundleError(f"{self._store.where} has no model to serve any more"))
        if not released:
            raise BundleError(f"there is no model in {self._store.where}")
        for name in [name for name in registry.not_served if name not in released]:
            del registry.not_served[name]  # it left the store
            self._said.pop(name, None)
        for name, found in released.items():
            if name in registry.served and not self._settings.reload_s:
                continue  # looks go on for the others only
            if isinstance(found, Exception):
                self._cannot(name, found)
            else:
                await self._renew(name, found)

    def _released(self) -> dict[str, str | Exception]:
        """NAME:VERSION of each model's version to serve, or why there is none. May hang."""
        found: dict[str, str | Exception] = {}
        for reference in self._settings.models or self._store.names():
            name = reference.partition(":")[0]
            try:
                found[name] = f"{name}:{self._store.resolve(reference)[1]}"
            except (LabradorError, OSError) as error:
                found[name] = error
        return found

    async def _renew(self, name: str, reference: str) -> None:
        """Serve the version NAME:VERSION, unless it is served or known to be bad."""
        old = self._registry.served.get(name)
        if old is not None and reference == old.reference:
            self._said.pop(name, None)
            return
        if reference == self._bad.get(name):
            return
        try:
            new = await self._start(reference, beside=old is not None)
        except Exception as error:
            self._cannot(name, error, self._store.address(reference))
            if not _is_the_stores(error) and not isinstance(error, KeysError | NoRoomError):
                await self._do_without(name, reference)
            return
        self._bad.pop(name, None)
        self._said.pop(name, None)
        self._registry.serve(name, new)
        if old is not None:
            self._metrics.reloads.labels(name, "swapped").inc()

    async def _do_without(self, name: str, reference: str) -> None:
        """Keep what is served, or serve the version before, in place of a bad one.

        With either, the bad version is not tried again; with neither, the next look tries it.
        """
        if name not in self._registry.served:
            before = await self._start_replaced(reference)
            if before is None:
                return
            self._registry.serve(name, before)
            self._metrics.reloads.labels(name, "failed").inc()
        self._bad[name] = reference

    def _cannot(self, name: str, error: Exception, address: str | None = None) -> None:
        """Log, count and show why a model's released version is not served."""
        self._failed = True
        if _is_the_stores(error):
            self._count_failure(error)
        why = f"{address or name} cannot be served: {type(error).__name__}: {error}"
        if self._said.get(name) != why:  # said once, while nothing changes
            self._said[name] = why
            if name in self._registry.served and not _is_the_stores(error):
                self._metrics.reloads.labels(name, "failed").inc()
            log.error("%s", why)
        self._registry.cannot_serve(name, str(error))

    async def _start_replaced(self, reference: str) -> Served | None:
        """The version that this one replaced, if its manifest names one that works."""
        try:
            read = partial(self._store.manifest, reference)
            release = (await self._aside.run(read, self._settings.store_timeout_s)).release
            if release is None or release.replaced is None:
                return None
            before = f"{reference.partition(':')[0]}:{release.replaced}"
            served = await self._start(before, beside=False)
        except Exception as error:
            log.error("nor is the version before it: %s", error)
            return None
        log.error("%s is served instead", self._store.address(before))
        return served

    async def _start(self, reference: str, beside: bool) -> Served:
        """Load and verify a version. beside: another version of the model is being served."""

        def opened() -> tuple[Manifest, Session, Sequence[bytes]]:
            if beside:
                self._check_memory(reference)
            whole = self._store.read(reference)  # released after this; the session has its own copy
            session = open_proved(whole, self._settings, self._place)
            return whole.manifest, session, samples(whole) if self._settings.page else ()

        manifest, session, pictures = await self._aside.run(opened, _OPEN_LIMIT_S)
        metrics, max_queue = self._metrics.of(manifest.name), self._settings.max_queue
        batcher = Batcher(session.outputs, metrics, session.max_batch, max_queue)
        self._metrics.expect(manifest)
        variant, why = session.variant, session.why
        log.info(
            "%s:%s runs in %s on %s (%s)",
            *naming(manifest).values(),
            variant.precision,
            session.provider,
            why,
        )
        return Served(
            reference,
            manifest,
            variant,
            why,
            session.provider,
            batcher,
            session.speeds,
            pictures,
            session.held_out,
        )

    def _check_memory(self, reference: str) -> None:
        """Raises NoRoomError if a second version would not fit beside the first."""
        needed = _MEMORY_PER_BYTE * self._store.size_bytes(reference)
        if needed > free_memory():
            raise NoRoomError(  # without what is free, which changes: it is said once
                f"it needs about {needed / 2**20:.0f} MiB to be loaded beside the version that is"
                " served, and less is free"
            )

    def _count_failure(self, error: Exception) -> None:
        log.warning("the store cannot be read: %s", error)
        self._metrics.store_failures.inc()


def _is_the_stores(error: Exception) -> bool:
    """Whether reading the store failed, rather than the version: then it is tried again."""
    if isinstance(error, KeysError):
        return False
    cause = error if isinstance(error, OSError) else error.__cause__
    missing = (FileNotFoundError, NotADirectoryError)
    return isinstance(cause, OSError) and not isinstance(cause, missing)
