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
from pathlib import Path
from typing import Any

import bentoml
from bentoml._internal.configuration.containers import BentoMLContainer
from starlette.types import ASGIApp

from models.errors import LabradorError
from models.hardware import cpu_cores
from serving.metrics import FOLDER_VARIABLE
from serving.settings import read_api_keys, read_settings


class Service(bentoml.Service):  # type: ignore[misc]
    """A service whose workers serve `serving.app.Application`."""

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        # the server's first process loads this module too, and never runs a model
        from serving.app import Application

        self.inject_config()
        logging.getLogger("serving").setLevel(logging.INFO)  # which model runs where
        logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it quotes its input
        workers = BentoMLContainer.config.services[self.name].workers.get() or 1
        if workers == "cpu_count":
            workers = cpu_cores()
        folder = os.environ.get(FOLDER_VARIABLE) or tempfile.mkdtemp(prefix="labrador-metrics-")
        return Application(
            read_settings(),
            Path(folder),
            self.schema(),
            worker=(bentoml.server_context.worker_index or 1) - 1,
            workers=workers,
        )


@bentoml.service(name="labrador", service_class=Service)
class Labrador:
    """Says what is in a picture, by fine-tuned ResNets.

    The methods are declarations, for the names and types in BentoML's client: `image` is one
    file or a list of files.
    """

    @bentoml.api  # type: ignore[untyped-decorator]
    def classify(
        self, image: list[Path], top_k: int | None = None, model: str | None = None
    ) -> dict[str, Any]:
        """The likeliest labels."""
        raise NotImplementedError("requests are answered by serving.app")

    @bentoml.api  # type: ignore[untyped-decorator]
    def tag(
        self, image: list[Path], threshold: float | None = None, model: str | None = None
    ) -> dict[str, Any]:
        """Every label that is in the picture."""
        raise NotImplementedError("requests are answered by serving.app")

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    def prepare() -> None:
        """Runs once a server, before its workers."""
        from bentoml._internal.utils.analytics import usage_stats  # the workers need none of it

        os.environ["BENTOML_DO_NOT_TRACK"] = "True"
        usage_stats.do_not_track.cache_clear()  # `bentoml serve` asked before it loaded us
        try:
            read_api_keys(read_settings().api_keys_file)
        except LabradorError as error:
            sys.exit(str(error))
        folder = tempfile.mkdtemp(prefix="labrador-metrics-")
        os.environ[FOLDER_VARIABLE] = folder
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
