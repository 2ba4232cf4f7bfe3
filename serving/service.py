"""The BentoML service, by which `bentoml serve`, `bentoml build` and BentoML's client know us.

BentoML gives workers, lifecycle, configuration, packaging and the container. Its own parsing,
batching and middlewares see no request: its workers run our application instead.
"""

import atexit
import logging
import os
import shutil
import sys
import tempfile
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bentoml
from starlette.types import ASGIApp

from models.errors import LabradorError
from serving import bentoml_internals, preflight
from serving.metrics import FOLDER_VARIABLE
from serving.settings import read_settings

if TYPE_CHECKING:
    from serving.local import Local


class Service(bentoml.Service):  # type: ignore[misc]
    """A service whose workers serve `serving.app.Application`."""

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        # the server's first process loads this module too, and never runs a model
        from serving.app import Application

        self.inject_config()
        logging.getLogger("serving").setLevel(logging.INFO)  # which model runs where
        logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it quotes its input
        folder = os.environ.get(FOLDER_VARIABLE) or tempfile.mkdtemp(prefix="labrador-metrics-")
        return Application(
            read_settings(),
            Path(folder),
            self.schema(),
            worker=(bentoml.server_context.worker_index or 1) - 1,
            workers=bentoml_internals.workers(self.name),
        )


@bentoml.service(name="labrador", service_class=Service)
class Labrador:
    """Says what is in a picture, by fine-tuned ResNets.

    `image` is one file or a list of files. Over HTTP the methods are declarations, for the names
    and types in BentoML's client; called in Python, they answer from the store in this process.
    """

    @cached_property
    def _local(self) -> "Local":
        from serving.local import Local  # a server never needs it

        return Local(read_settings())

    @bentoml_internals.ask_as_multipart
    @bentoml.api  # type: ignore[untyped-decorator]
    def classify(
        self, image: list[Path], top_k: int | None = None, model: str | None = None
    ) -> dict[str, Any]:
        """The likeliest labels."""
        return self._local.answer("single", image, {"top_k": top_k, "model": model})

    @bentoml_internals.ask_as_multipart
    @bentoml.api  # type: ignore[untyped-decorator]
    def tag(
        self, image: list[Path], threshold: float | None = None, model: str | None = None
    ) -> dict[str, Any]:
        """Every label that is in the picture."""
        return self._local.answer("multi", image, {"threshold": threshold, "model": model})

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    def prepare() -> None:
        """Runs once a server, before its workers."""
        bentoml_internals.stop_telemetry()
        try:
            preflight.check()
        except LabradorError as error:
            sys.exit(f"error: {error}")
        folder = tempfile.mkdtemp(prefix="labrador-metrics-")
        os.environ[FOLDER_VARIABLE] = folder
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
