"""The BentoML service, as seen by `bentoml serve`, `bentoml build` and BentoML's client.

BentoML provides workers, lifecycle, configuration, packaging and the container. Its own parsing,
batching and middleware are bypassed: its workers run our application instead.
"""

import atexit
import logging
import os
import shutil
import sys
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bentoml
from starlette.types import ASGIApp

from models.errors import LabradorError
from models.hardware import cpu_cores
from serving import bentoml_internals, preflight
from serving.hardware import gpus, workers_on_cuda
from serving.observability.metrics import FOLDER_VARIABLE, new_folder
from serving.settings import SettingsError, read_settings

if TYPE_CHECKING:
    from serving.local import Local


class Service(bentoml.Service):  # type: ignore[misc]
    """A service whose workers serve `serving.app.Application`."""

    def inject_config(self) -> None:
        """With this machine's number of workers, unless BentoML's configuration names one.

        A Bento must not keep it: it may be built on another machine.
        """
        if self.config.get("workers"):
            super().inject_config()
            return
        self.config["workers"] = default_workers()
        try:
            super().inject_config()
        finally:
            del self.config["workers"]

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        # imported late: the server's main process loads this module too, and never runs a model
        from serving.app import Application

        self.inject_config()
        logging.getLogger("serving").setLevel(logging.INFO)  # logs which model runs where
        for name in ("python_multipart", "opentelemetry.baggage", "opentelemetry.trace"):
            logging.getLogger(name).setLevel(logging.ERROR)  # their warnings quote input
        folder = os.environ.get(FOLDER_VARIABLE) or new_folder()
        return Application(
            read_settings(),
            Path(folder),
            self.schema(),
            worker=(bentoml.server_context.worker_index or 1) - 1,
            workers=bentoml_internals.workers(self.name),
        )


def default_workers() -> int:
    """One on a CPU, whose cores a single process uses; on CUDA as many as feed the GPUs."""
    try:
        settings = read_settings()
    except SettingsError:
        return 1  # the server is about to say so, and to stop
    gpu_count = 0 if settings.device == "cpu" else gpus()
    return workers_on_cuda(gpu_count, settings.cores or cpu_cores()) if gpu_count else 1


@bentoml.service(name="labrador", service_class=Service)
class Labrador:
    """Classifies and tags images with fine-tuned ResNets.

    `image` is one file or a list of files. For HTTP the methods only declare the names and types
    that BentoML's client uses; called from Python, they run the store's models in this process.
    """

    @cached_property
    def _local(self) -> "Local":
        from serving.local import Local  # not needed by a server

        return Local(read_settings())

    @bentoml_internals.ask_as_multipart
    @bentoml.api  # type: ignore[untyped-decorator]
    def classify(
        self,
        image: list[Path],
        top_k: int | None = None,
        model: str | None = None,
        alpha: float | None = None,
        coverage: float | None = None,
    ) -> dict[str, Any]:
        """The most likely labels, and whether an image is of no kind that the model knows."""
        given = {"top_k": top_k, "model": model, "alpha": alpha, "coverage": coverage}
        return self._local.answer("single", image, given)

    @bentoml_internals.ask_as_multipart
    @bentoml.api  # type: ignore[untyped-decorator]
    def tag(
        self,
        image: list[Path],
        threshold: float | None = None,
        model: str | None = None,
        alpha: float | None = None,
    ) -> dict[str, Any]:
        """Every label whose score is at or above its threshold, and whether an image is unknown."""
        given = {"threshold": threshold, "model": model, "alpha": alpha}
        return self._local.answer("multi", image, given)

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    def prepare() -> None:
        """Runs once per server, before its workers start."""
        bentoml_internals.stop_telemetry()
        try:
            preflight.check()
        except LabradorError as error:
            sys.exit(f"error: {error}")
        os.environ[FOLDER_VARIABLE] = folder = new_folder()
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
