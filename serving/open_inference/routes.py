"""The Open Inference Protocol, version 2, over HTTP: what clients of KServe and Triton speak."""

import json
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from models.errors import LabradorError
from serving.auth import Keys
from serving.deadline import waited_for
from serving.maps import Look
from serving.observability.metrics import Metrics
from serving.open_inference.request import Inference, names_of_outputs, parse
from serving.open_inference.response import response
from serving.open_inference.tensors import IMAGE, PIXELS
from serving.prediction import Predictor, each
from serving.registry import Registry, Served

ROOT = "/v2"
EXTENSIONS = ["binary_tensor_data", "classification"]
_MODEL = f"{ROOT}/models/{{name}}"
_VERSION = f"{_MODEL}/versions/{{version}}"


class OpenInference:
    """Its handlers; they raise errors of `models.errors`, as all others do."""

    def __init__(
        self, keys: Keys, registry: Registry, predictor: Predictor, metrics: Metrics
    ) -> None:
        self._keys = keys
        self._registry = registry
        self._predictor = predictor
        self._metrics = metrics

    def routes(self) -> list[Route]:
        """Their names are those of the metrics: only requests for an answer have their own."""
        asking = [
            Route(f"{path}/infer", self.infer, methods=["POST"], name="infer")
            for path in (_MODEL, _VERSION)
        ]
        telling = [
            (ROOT, self.server),
            (f"{ROOT}/", self.server),
            (f"{ROOT}/health/live", self.live),
            (f"{ROOT}/health/ready", self.ready),
            (_MODEL, self.model),
            (_VERSION, self.model),
            (f"{_MODEL}/ready", self.model_ready),
            (f"{_VERSION}/ready", self.model_ready),
        ]
        return [*asking, *(Route(path, handler, name="v2") for path, handler in telling)]

    async def server(self, request: Request) -> Response:
        try:
            own = version("labrador")
        except PackageNotFoundError:  # a Bento has the sources alone
            own = ""
        return JSONResponse({"name": "labrador", "version": own, "extensions": EXTENSIONS})

    async def live(self, request: Request) -> Response:
        self._registry.check_alive()
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        self._registry.check_ready()
        return JSONResponse({"ready": True})

    async def model_ready(self, request: Request) -> Response:
        served = self._registry.named(**request.path_params)
        self._registry.check_ready()
        return JSONResponse({"name": served.manifest.name, "ready": True})

    async def model(self, request: Request) -> Response:
        self._keys.check(request.headers)
        manifest = self._registry.named(**request.path_params).manifest
        size = manifest.preprocess.image_size_px
        labels = len(manifest.labels)
        shapes: dict[str, tuple[str, list[int]]] = {
            "scores": ("FP32", [-1, labels]),
            "labels": ("BYTES", [-1, 1 if manifest.task == "single" else -1]),
            "p_value": ("FP64", [-1]),
            "unknown": ("BOOL", [-1]),
            "maps": ("FP32", [-1, labels, -1, -1]),
            "boxes": ("FP32", [-1, 4]),
        }
        return JSONResponse(
            {
                "name": manifest.name,
                "versions": [str(manifest.version)],
                "platform": "onnx_onnxv1",
                "inputs": [  # one of the two
                    {"name": IMAGE, "datatype": "BYTES", "shape": [-1]},
                    {"name": PIXELS, "datatype": "UINT8", "shape": [-1, size, size, 3]},
                ],
                "outputs": [
                    {"name": name, "datatype": shapes[name][0], "shape": shapes[name][1]}
                    for name in names_of_outputs(manifest)
                ],
            }
        )

    async def infer(self, request: Request) -> Response:
        self._keys.check(request.headers)
        observed = request.state.observed
        named = partial(self._registry.named, **request.path_params)
        named().batcher.check_room(1)  # before the body is read: a refusal is cheap

        def parsed(body: bytes, headers: Any) -> tuple[Served, Inference]:
            served = named()  # another version may have been swapped in meanwhile
            return served, parse(body, headers, served.manifest)

        async with self._predictor.received(request, observed, parsed) as (found, deadline_s):
            served, asked = found
            observed.model = served.manifest.name
            with served.batcher.admitted(len(asked.images)):
                async with waited_for(request.receive, deadline_s):
                    look = partial(
                        self._predictor.look
                        if isinstance(asked.images, list)
                        else self._predictor.see,
                        served=served,
                        deadline_s=deadline_s,
                        observed=observed,
                        with_maps=asked.maps,
                    )
                    looks = _all(await each([look(image) for image in asked.images]))
            with self._metrics.stage("respond", observed):
                for seen in looks:
                    self._metrics.observe_scores(seen.scores, served.manifest, seen.is_unknown)
                if isinstance(asked.images, list):  # encoded: pixels alone are no image to train on
                    self._predictor.offer(asked.images, looks, served.manifest)
                return response(asked, looks, served.manifest)


def _all(answers: Any) -> list[Look]:
    """Raises the error of the first image that has one: the protocol has one for the whole."""
    for number, answer in enumerate(answers, 1):
        if isinstance(answer, LabradorError):
            raise type(answer)(f"image {number} of {len(answers)}: {answer}")
    return list(answers)


def is_of_protocol(path: str) -> bool:
    return path == ROOT or path.startswith(f"{ROOT}/")


def respond(problem: LabradorError, headers: dict[str, str]) -> Response:
    """A problem as the protocol's error: the code, and what it says."""
    content = json.dumps({"error": f"{problem.code}: {problem}"}).encode()
    return Response(content, problem.status, headers, "application/json")
