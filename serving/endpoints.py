"""The handlers of all paths. `routes` lists the paths, in the order of /docs."""

import asyncio
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from models.errors import NotFound
from models.variants import metrics_of
from serving import openapi
from serving.auth import Keys
from serving.observability.metrics import Metrics
from serving.open_inference.routes import OpenInference
from serving.page import Page, picture
from serving.prediction import Predictor
from serving.registry import Registry, Served, naming
from serving.settings import PARTS_MAX, Settings


class Endpoints:
    """Each handler returns a response or raises an error of `models.errors`."""

    def __init__(
        self,
        settings: Settings,
        keys: Keys,
        registry: Registry,
        predictor: Predictor,
        metrics: Metrics,
        schema: dict[str, Any],
    ) -> None:
        """schema: the service schema that BentoML's client reads."""
        self._settings = settings
        self._keys = keys
        self._registry = registry
        self._predictor = predictor
        self._metrics = metrics
        self._schema = schema
        self._page = Page() if settings.page else None

    def routes(self) -> list[Route]:
        page = [
            Route("/", self.page),
            Route("/page/{name}", self.page),
            Route("/models/{name}/samples/{number:int}", self.sample),
        ]
        return [
            *(page if self._page else ()),
            Route("/classify", self.classify, methods=["POST"]),
            Route("/tag", self.tag, methods=["POST"]),
            Route("/models", self.models),
            Route("/livez", self.livez),
            Route("/readyz", self.readyz),
            Route("/metrics", self.metrics),
            Route("/docs", self.docs),
            Route("/openapi.json", self.openapi),
            Route("/schema.json", self.schema),
            *OpenInference(self._keys, self._registry, self._predictor, self._metrics).routes(),
        ]

    async def page(self, request: Request) -> Response:
        assert self._page is not None  # or there is no route
        return self._page.answer(request, **request.path_params)

    async def sample(self, request: Request) -> Response:
        self._keys.check(request.headers)
        name, number = request.path_params["name"], request.path_params["number"]
        samples = self._registry.named(name).samples
        if not 1 <= number <= len(samples):
            raise NotFound(f"no sample {number}; {name} has 1 to {len(samples)}")
        return picture(request, samples[number - 1])

    async def classify(self, request: Request) -> Response:
        self._keys.check(request.headers)
        return await self._predictor.answer(request, "single", request.state.observed)

    async def tag(self, request: Request) -> Response:
        self._keys.check(request.headers)
        return await self._predictor.answer(request, "multi", request.state.observed)

    async def models(self, request: Request) -> Response:
        self._keys.check(request.headers)
        self._registry.check_loaded()
        settings = self._settings
        limits = {
            "body_mb": settings.max_body_mb,
            "megapixels": settings.max_megapixels,
            "images": PARTS_MAX,
        }
        models = [_describe(served) for served in self._registry.served.values()]
        return JSONResponse({"models": models, "limits": limits})

    async def livez(self, request: Request) -> Response:
        self._registry.check_alive()
        return JSONResponse({"status": "live"})

    async def readyz(self, request: Request) -> Response:
        self._registry.check_ready()
        models = [
            {**naming(served.manifest), **_form(served)}
            for served in self._registry.served.values()
        ]
        answer: dict[str, Any] = {"status": "ready", "models": models}
        if self._registry.not_served:
            answer["not_served"] = self._registry.not_served
        return JSONResponse(answer)

    async def metrics(self, request: Request) -> Response:
        served = [
            (s.manifest, s.variant, s.provider, s.speeds) for s in self._registry.served.values()
        ]
        text = await asyncio.to_thread(self._metrics.scrape, served)
        return Response(text, headers={"Content-Type": self._metrics.content_type})

    async def docs(self, request: Request) -> Response:
        return HTMLResponse(openapi.PAGE)

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(openapi.specification(self._settings))

    async def schema(self, request: Request) -> Response:
        return JSONResponse(self._schema)


def _describe(served: Served) -> dict[str, Any]:
    manifest, gate = served.manifest, served.variant.gate
    return {
        **naming(manifest),
        "task": manifest.task,
        "labels": manifest.labels,
        "thresholds": manifest.thresholds,
        "maps": manifest.tensors.maps is not None,
        "novelty": manifest.tensors.novelty is not None,
        "held_out": manifest.conformal
        and manifest.conformal.model_dump(include={"images", "alpha"}),
        "samples": len(served.samples),
        "sha256": manifest.files[served.variant.file],
        **_form(served),
        "timed": [asdict(speed) for speed in served.speeds],
        "gate": gate.model_dump(include={"images", "decisions", "flips", "max_difference"}),
    }


def _form(served: Served) -> dict[str, Any]:
    """What form of the network is served, where, why, and how good that one is."""
    precision, metrics = metrics_of(served.manifest, served.variant)
    return {
        "provider": served.provider,
        "precision": served.variant.precision,
        "why": served.why,
        "metrics_of": precision,
        "metrics": {name: metric.model_dump() for name, metric in metrics.items()},
    }
