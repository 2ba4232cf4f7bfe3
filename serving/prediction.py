"""POST /classify and /tag: read the body, choose the model, decode, run, decide, answer."""

import asyncio
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from models import decision
from models.errors import LabradorError
from models.manifest import Manifest, Task
from models.preprocess import Box, decode_with_box
from serving import maps
from serving.bentoml_internals import PICKLE, asks_for_pickle
from serving.bodies import Bodies
from serving.body import Content, read, take_apart
from serving.capture.capture import Capture
from serving.deadline import has_passed, reading, waited_for
from serving.maps import Look
from serving.observability.metrics import Metrics
from serving.observability.observation import Observation
from serving.parameters import gather, number, timeout_s, whole_number
from serving.promises import Promises, promises_of, seen
from serving.registry import Registry, Served, naming
from serving.settings import Settings

TOP_K = 5
PARAMETERS: dict[Task, tuple[str, ...]] = {
    "single": ("model", "top_k", "alpha", "coverage", "maps"),
    "multi": ("model", "threshold", "alpha", "maps"),
}

Parsed = TypeVar("Parsed")
Scores = NDArray[np.float32]
Decide = Callable[[Scores], list[decision.Prediction] | list[decision.Tag]]


class Predictor:
    """Answers prediction requests with the registry's models, decoding in its own threads."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        metrics: Metrics,
        decoders: int,
        capture: Capture | None = None,
    ) -> None:
        self._capture = capture
        self._settings = settings
        self._registry = registry
        self._metrics = metrics
        self._decoders = ThreadPoolExecutor(decoders, "decode")
        self._bodies = Bodies(int(settings.max_bodies_mb * 2**20))

    async def answer(self, request: Request, task: Task, observed: Observation) -> Response:
        """The response; raises the errors of a request. Sets what is known in `observed`."""
        self._registry.check_accepts(task)
        async with self.received(request, observed, take_apart) as (content, deadline_s):
            return await self._answer(request, task, observed, content, deadline_s)

    @asynccontextmanager
    async def received(
        self, request: Request, observed: Observation, parse: Callable[[bytes, Headers], Parsed]
    ) -> AsyncIterator[tuple[Parsed, float]]:
        """What `parse` makes of the request's body, which counts as held until the block ends, and
        the request's deadline on the event loop's clock. Raises the errors of reading a body.
        """
        now_s = asyncio.get_running_loop().time()
        timeout = timeout_s(request.headers.get("x-timeout-ms"), self._settings.timeout_s)
        observed.own_deadline = timeout < self._settings.timeout_s
        deadline_s = now_s + timeout
        with self._bodies.body() as body:
            with self._metrics.stage("read", observed):
                try:
                    async with reading(deadline_s, now_s + self._settings.read_timeout_s):
                        max_bytes = int(self._settings.max_body_mb * 2**20)
                        data = await read(request.receive, request.headers, max_bytes, body)
                finally:
                    observed.received_bytes = body.size
                parsed = parse(data, request.headers)
                del data  # a multipart body's images are copies
            yield parsed, deadline_s

    async def _answer(
        self,
        request: Request,
        task: Task,
        observed: Observation,
        content: Content,
        deadline_s: float,
    ) -> Response:
        """The response to a body that has been read."""
        query = request.query_params.multi_items()
        parameters = gather(query, content.fields, PARAMETERS[task])
        served = self._registry.choose(task, parameters.get("model"))
        observed.model = served.manifest.name
        decide = decision_of(parameters, served.manifest)
        promises = promises_of(parameters, served.manifest, served.held_out)
        with_maps = maps.wanted(parameters, served.manifest)

        with served.batcher.admitted(len(content.images)):
            async with waited_for(request.receive, deadline_s):
                answers = await each(
                    [
                        self.look(image, served, deadline_s, observed, with_maps)
                        for image in content.images
                    ]
                )

        with self._metrics.stage("respond", observed):
            results = [self._result(answer, decide, promises) for answer in answers]
            self.offer(content.images, answers, served.manifest)
            answer = answer_of(results, served.manifest)
            if asks_for_pickle(request.headers):
                return Response(pickle.dumps(answer), media_type=PICKLE)
            return JSONResponse(answer)

    def close(self) -> None:
        self._decoders.shutdown()
        if self._capture is not None:
            self._capture.close()

    def offer(
        self, images: Sequence[bytes], answers: Sequence[Look | LabradorError], manifest: Manifest
    ) -> None:
        """Images that may be captured, with their answers."""
        if self._capture is None:
            return
        for image, answer in zip(images, answers, strict=True):
            if not isinstance(answer, LabradorError):
                self._capture.offer(image, answer.scores, manifest, answer.is_unknown)

    async def look(
        self,
        image: bytes,
        served: Served,
        deadline_s: float,
        observed: Observation,
        with_maps: bool,
    ) -> Look:
        """One image file -> what the model sees in it. Raises what `decode` and `see` raise."""
        preprocess, megapixels = served.manifest.preprocess, self._settings.max_megapixels
        loop = asyncio.get_running_loop()
        try:
            with self._metrics.stage("decode", observed):
                pixels, box = await loop.run_in_executor(
                    self._decoders, decode_with_box, image, preprocess, megapixels
                )
        except asyncio.CancelledError:
            self._metrics.drop(expired=has_passed(deadline_s))
            raise
        return await self.see(pixels, served, deadline_s, observed, with_maps, box)

    async def see(
        self,
        pixels: NDArray[np.uint8],
        served: Served,
        deadline_s: float,
        observed: Observation,
        with_maps: bool,
        box: Box | None = None,
    ) -> Look:
        """pixels uint8 `[S, S, 3]`, and what they cover -> what the model sees in them.

        Raises what the batcher raises, and ModelFailed for scores or a novelty that are not finite.
        """
        output = await served.batcher.output(pixels, deadline_s, observed, with_maps)
        look = seen(output, served.manifest, served.held_out)
        # a run also fetches the maps of images beside those that asked for theirs
        return replace(look, maps=output.maps, box=box) if with_maps else look

    def _result(
        self, answer: Look | LabradorError, decide: Decide, promises: Promises
    ) -> dict[str, Any]:
        """The part of the response for one image."""
        if isinstance(answer, LabradorError):
            self._metrics.rejected.labels(answer.code).inc()
            return {"error": answer.problem()}
        self._metrics.observe_scores(answer.scores, promises.manifest, answer.is_unknown)
        return entry(answer, decide, promises)


def entry(look: Look, decide: Decide, promises: Promises) -> dict[str, Any]:
    """The part of an answer for one image."""
    manifest = promises.manifest
    kind = "predictions" if manifest.task == "single" else "tags"
    # dataclasses.asdict makes deep copies: 10 µs per label
    decisions = [{n: getattr(d, n) for n in d.__slots__} for d in decide(look.scores)]
    beside = promises.beside(look)
    return {kind: decisions, **beside, **maps.beside(decisions, look, manifest)}


def answer_of(results: Sequence[dict[str, Any]], manifest: Manifest) -> dict[str, Any]:
    """The whole answer: the model's name, and the result of one image or those of several."""
    only = results[0] if len(results) == 1 else {"results": results}
    return {"model": naming(manifest), **only}


async def each(looks: Sequence[Awaitable[Look]]) -> Sequence[Look | LabradorError]:
    """The outcome or the error of each image; the error of a single image is raised.

    It is raised and not returned: an exception stored in a frame that its traceback refers to is a
    reference cycle, which keeps the body in memory until the next garbage collection.
    """
    if len(looks) == 1:
        return [await looks[0]]
    answers: list[Look | LabradorError] = []
    for answer in await asyncio.gather(*looks, return_exceptions=True):
        if isinstance(answer, BaseException) and not isinstance(answer, LabradorError):
            raise answer
        answers.append(answer)
    return answers


def decision_of(parameters: dict[str, str], manifest: Manifest) -> Decide:
    """The function from scores `[C]` to predictions or tags, for these parameters.

    Raises BadParameter at once, before any image is decoded.
    """
    if manifest.task == "single":
        top_k = min(TOP_K, len(manifest.labels))
        if "top_k" in parameters:
            top_k = whole_number("top_k", parameters["top_k"])
            decision.check_top_k(top_k, manifest)
        return partial(decision.classify, manifest=manifest, top_k=top_k)
    threshold = None
    if "threshold" in parameters:
        threshold = number("threshold", parameters["threshold"])
        decision.check_threshold(threshold)
    return partial(decision.tag, manifest=manifest, threshold=threshold)
