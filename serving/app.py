"""The ASGI application: routes, times and counts every request, answers every error as a problem.

Only this is reachable from the network; BentoML starts it (`serving/service.py`).
"""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from time import perf_counter
from types import FrameType
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Mount, Router
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

from models.errors import BadParameter, LabradorError
from models.hardware import cpu_cores
from serving import bentoml_internals, memory
from serving.aside import Aside
from serving.auth import Keys
from serving.capture.capture import Capture
from serving.endpoints import Endpoints
from serving.follower import Follower
from serving.observability import tracing
from serving.observability.access_log import AccessLog
from serving.observability.metrics import Metrics
from serving.observability.observation import Observation
from serving.open_inference import routes as open_inference
from serving.prediction import Predictor
from serving.problems import as_problem, respond
from serving.registry import Registry
from serving.session import Place
from serving.settings import Settings, read_api_keys

log = logging.getLogger(__name__)

KEYS_S = 10.0  # between two looks at the file of API keys
CLIENT_LEFT = 499  # never sent, only in the metrics; nginx's code for a disconnected client


class Application:
    """One worker's application. It answers from the start, while the models are being loaded."""

    def __init__(
        self,
        settings: Settings,
        metrics_folder: Path,
        schema: dict[str, Any],
        worker: int = 0,
        workers: int = 1,
    ) -> None:
        """worker: 0 to `workers` - 1. schema: the service schema that BentoML's client reads.

        Raises SettingsError if the file of API keys, or an exporter of traces, cannot be used.
        """
        memory.keep_little()
        cores = max(1, (settings.cores or cpu_cores()) // workers)
        self._settings = settings
        self._metrics = Metrics(metrics_folder)
        self._tracing = tracing.configured()
        self._access_log = AccessLog() if settings.access_log == "json" else None
        self._registry = Registry(settings, self._metrics)
        self._follower = Follower(settings, self._registry, self._metrics, Place(cores, worker))
        capture = Capture(settings, self._metrics) if settings.capture else None
        self._predictor = Predictor(settings, self._registry, self._metrics, cores, capture)
        self._keys = Keys(read_api_keys(settings.api_keys_file))
        endpoints = Endpoints(
            settings, self._keys, self._registry, self._predictor, self._metrics, schema
        )
        routes = endpoints.routes()
        self._endpoints = {route.path: route.name for route in routes}
        # by handler, as their paths have parts that clients choose
        self._of_protocol = {
            route.endpoint: route.name
            for route in routes
            if open_inference.is_of_protocol(route.path)
        }
        self._router = Router(
            [*routes, *_assets()], redirect_slashes=False, lifespan=self._lifespan
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        observed = Observation()
        scope.setdefault("state", {})["observed"] = observed
        scope["app"] = self  # so that Starlette raises its 404 and 405
        if scope["type"] != "http":
            await self._router(scope, receive, send)
            return
        start_s = perf_counter()
        if self._tracing is not None and scope["method"] == "POST":
            observed.trace = self._tracing.begin(scope, start_s)
        status = CLIENT_LEFT
        sent_bytes = 0

        async def answer(message: Message) -> None:
            nonlocal status, sent_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._registry.draining:  # so that the client's next request goes elsewhere
                    MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)
            sent_bytes += len(message.get("body", b""))

        try:
            _check_host(scope)
            await self._router(scope, receive, answer)
        except ClientDisconnect:
            pass
        except Exception as error:
            refusal = self._refuse(error, observed, scope["path"])
            if status == CLIENT_LEFT:  # nothing was sent yet
                await refusal(scope, receive, answer)
        if status == HTTPStatus.GATEWAY_TIMEOUT and observed.own_deadline:
            status = CLIENT_LEFT  # as it wished; no failure of the service
        self._note(scope, observed, status, sent_bytes, start_s)

    def _note(
        self, scope: Scope, observed: Observation, status: int, sent_bytes: int, start_s: float
    ) -> None:
        """Count a request that has ended, end its span, and write its line."""
        end_s = perf_counter()
        handler = scope.get("endpoint", self)  # itself where there is no route
        endpoint = self._endpoints.get(scope["path"], self._of_protocol.get(handler, "other"))
        self._metrics.requests.labels(endpoint, observed.model, status).inc()
        self._metrics.request_seconds.labels(endpoint, observed.model).observe(end_s - start_s)
        trace = observed.trace
        if trace is not None:
            trace.end(endpoint, observed.model, status, observed.code, end_s)
        if self._access_log is not None:
            trace_id = trace.id if trace is not None else tracing.trace_id(Headers(scope=scope))
            self._access_log.note(
                observed, scope["method"], endpoint, status, sent_bytes, end_s - start_s, trace_id
            )

    def _refuse(self, error: Exception, observed: Observation, path: str) -> Response:
        problem, headers = as_problem(error, list(self._endpoints))
        observed.code = problem.code
        self._metrics.rejected.labels(problem.code).inc()
        if open_inference.is_of_protocol(path):
            return open_inference.respond(problem, headers)
        return respond(problem, headers)

    @asynccontextmanager
    async def _lifespan(self, _: Any) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._follower.follow())]
        if self._settings.api_keys_file is not None:
            tasks.append(asyncio.create_task(self._follow_keys()))
        self._drain_on_sigterm()
        yield
        for task in tasks:
            task.cancel()
        await self._registry.close()
        self._predictor.close()
        if self._tracing is not None:
            self._tracing.close()
        if self._access_log is not None:
            self._access_log.close()

    async def _follow_keys(self) -> None:
        """Take over keys that were rotated; those before stay valid while the file is unusable."""
        aside = Aside()
        while True:
            await asyncio.sleep(KEYS_S)
            try:
                read = partial(read_api_keys, self._settings.api_keys_file)
                self._keys.replace(await aside.run(read, self._settings.store_timeout_s))
            except (LabradorError, TimeoutError) as error:
                log.error("the API keys cannot be read again: %s", error)

    def _drain_on_sigterm(self) -> None:
        """At SIGTERM report not ready, and call the server's own handler DRAIN_S later.

        The orchestrator keeps sending requests for a while, and a connection that the kernel has
        accepted would hang.
        """
        loop = asyncio.get_running_loop()
        stop = signal.getsignal(signal.SIGTERM)
        if not callable(stop):
            return

        def drain(number: int, frame: FrameType | None) -> None:
            self._registry.drain()
            loop.call_soon_threadsafe(loop.call_later, self._settings.drain_s, stop, number, None)

        signal.signal(signal.SIGTERM, drain)


def _check_host(scope: Scope) -> None:
    """Raises BadParameter for an HTTP/1.1 request without Host, as RFC 9112, 3.2 asks for."""
    if scope["http_version"] == "1.1" and not any(name == b"host" for name, _ in scope["headers"]):
        raise BadParameter("an HTTP/1.1 request needs a Host header")


def _assets() -> list[Mount]:
    """Swagger UI, if BentoML's wheel contains it; without it /docs is an empty page."""
    folder = bentoml_internals.swagger_ui()
    return [Mount("/docs", StaticFiles(directory=folder))] if folder else []
