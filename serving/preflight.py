"""What keeps a server from starting, told in one line before any worker starts."""

import errno
import socket

import click

from models.errors import BundleError, LabradorError
from models.signing.signature import Trust
from serving import bentoml_internals
from serving.capture.captured_folder import check_usable
from serving.observability import tracing
from serving.settings import Settings, SettingsError, read_api_keys, read_settings

_WAIT = "LABRADOR_WAIT_FOR_MODELS=true starts the server and waits for one"


class PortInUseError(LabradorError):
    """Another process listens where the server would."""


def check() -> Settings:
    """The settings, if a server can start with them.

    Raises SettingsError, KeysError, BundleError for a model that is not in the store (unless the
    settings say to wait for it) and PortInUseError.
    """
    settings = read_settings()
    read_api_keys(settings.api_keys_file)
    tracing.check()
    _check_capture(settings)
    if settings.trust is not None:
        Trust(settings.trust)
    if not settings.wait_for_models:
        _check_models(settings)
    _check_port()
    return settings


def _check_models(settings: Settings) -> None:
    store = settings.store()
    try:
        for reference in settings.models or store.names():
            store.resolve(reference)
    except BundleError as error:
        raise BundleError(f"{error}. {_WAIT}") from error
    except OSError as error:
        reason = error.strerror or error
        raise SettingsError(f"LABRADOR_MODEL_STORE={store.where}: {reason}") from error
    if not settings.models and not store.names():
        raise BundleError(
            f"there is no model in {store.where}: make one with `python -m training export RUN"
            f" --name NAME`, or name the folder that has one with LABRADOR_MODEL_STORE. {_WAIT}"
        )


def _check_capture(settings: Settings) -> None:
    if settings.capture is None:
        return
    try:
        check_usable(settings.capture)
    except OSError as error:
        raise SettingsError(
            f"LABRADOR_CAPTURE={settings.capture}: {error.strerror}; give a folder that can be"
            " written to, or leave it out to keep no images"
        ) from error


def _check_port() -> None:
    """`bentoml serve` itself shows a traceback only."""
    configured = bentoml_internals.address()
    command = click.get_current_context(silent=True)
    if configured is None or command is None:
        return
    host = command.params.get("host") or configured[0]
    port = command.params.get("port") or configured[1]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUseError(
                    f"port {port} is in use by another process: stop it, or choose another port"
                    f" with --port, as in `bentoml serve --port {port + 1}`"
                ) from error
