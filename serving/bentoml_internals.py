"""Every use of BentoML's private modules is in this file.

A newer BentoML may move them: what is optional is then left out, and the service still starts.
"""

import logging
import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from models.hardware import cpu_cores

log = logging.getLogger(__name__)

CONFIGURATION = "bentoml._internal.configuration.containers"
TELEMETRY = "bentoml._internal.utils.analytics.usage_stats"
SERVER = "bentoml._internal.server"


def workers(service: str) -> int:
    """The number of workers in BentoML's configuration of the service with this name."""
    try:
        services: Any = import_module(CONFIGURATION).BentoMLContainer.config.services
        count = services[service].workers.get() or 1
    except (ImportError, AttributeError, KeyError) as error:
        log.warning("BentoML's configuration has moved (%s): assuming one worker", error)
        return 1
    return cpu_cores() if count == "cpu_count" else int(count)


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
