"""Every use of BentoML's private modules is in this file.

A newer BentoML may move them: what is optional is then left out, and the service still starts.
"""

import logging
import os
import secrets
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from models.hardware import cpu_cores

log = logging.getLogger(__name__)

CONFIGURATION = "bentoml._internal.configuration.containers"
TELEMETRY = "bentoml._internal.utils.analytics.usage_stats"
PICKLE = "application/vnd.bentoml+pickle"  # between its services
SERVER = "bentoml._internal.server"

_AS_PICKLE = "; answer=pickle"  # ends the Content-Type of a request through `bentoml.depends`


def workers(service: str) -> int:
    """The number of workers in BentoML's configuration of the service with this name."""
    try:
        services: Any = import_module(CONFIGURATION).BentoMLContainer.config.services
        count = services[service].workers.get() or 1
    except (ImportError, AttributeError, KeyError) as error:
        log.warning("BentoML's configuration has moved (%s): assuming one worker", error)
        return 1
    return cpu_cores() if count == "cpu_count" else int(count)


def address() -> tuple[str, int] | None:
    """Host and port of BentoML's configuration; None where it is elsewhere."""
    try:
        http: Any = import_module(CONFIGURATION).BentoMLContainer.http
        return http.host.get(), http.port.get()
    except (ImportError, AttributeError, KeyError):
        return None


def stop_telemetry() -> None:
    """Turn BentoML's telemetry off, although `bentoml serve` has checked before it loads us."""
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    try:
        import_module(TELEMETRY).do_not_track.cache_clear()
    except (ImportError, AttributeError):
        log.warning("BentoML's telemetry has moved: set BENTOML_DO_NOT_TRACK=True")


def swagger_ui() -> Path | None:
    """The folder with Swagger UI's files in BentoML's wheel, or None."""
    try:
        found = find_spec(SERVER)
    except ImportError:
        return None
    folders = [
        Path(p) / "static_content" for p in (found and found.submodule_search_locations) or ()
    ]
    return next((folder for folder in folders if (folder / "swagger-ui-bundle.js").is_file()), None)


def ask_as_multipart(method: Any) -> Any:
    """Make `bentoml.depends` send an API method's arguments as multipart/form-data.

    BentoML's services pickle what they send each other, and an image file goes as its path. A
    pickle can run code and a path can name any file, so the server accepts neither. But what
    `input_spec.model_dump()` returns is sent unchanged where it is bytes, under the content type
    `mime_type()`. BentoML's other clients send multipart/form-data without calling either.
    """
    content_type = f"multipart/form-data; boundary={secrets.token_hex(16)}"

    class Input(method.input_spec):  # type: ignore[misc]
        def model_dump(self, **_: Any) -> bytes:
            import httpx  # BentoML's client has it loaded; a server needs none

            given = {name: getattr(self, name) for name in type(self).model_fields}
            images = given.pop("image")
            form = httpx.Request(
                "POST",
                "http://labrador",
                headers={"Content-Type": content_type},
                data={name: str(value) for name, value in given.items() if value is not None},
                files=[("image", Path(image).read_bytes()) for image in images],
            )
            return form.read()

        @classmethod
        def mime_type(cls) -> str:
            return content_type + _AS_PICKLE

    method.input_spec = Input
    return method


def asks_for_pickle(headers: Mapping[str, str]) -> bool:
    """Whether the request comes through `bentoml.depends`, whose client reads only pickles."""
    return headers.get("content-type", "").endswith(_AS_PICKLE)
