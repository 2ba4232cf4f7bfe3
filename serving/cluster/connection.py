"""Ray, and the connection to a cluster: errors of one line, and little of Ray's own output."""

import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from typing import Any

from models.errors import LabradorError
from models.wording import installing, on_one_line

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # or Ray reports on a cluster that it starts
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # or it tells of each machine and actor that is lost
}
_SETTINGS = b"\x04"  # fourth byte of the frame that both sides of HTTP/2 begin with (RFC 9113)
_HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0" + _SETTINGS + bytes(5)
CONNECT_S = 5  # Ray itself tries for two minutes, and says so in many lines


class ClusterError(LabradorError):
    """A cluster that is missing, cannot be reached, or cannot do what is asked."""


def check_installed() -> None:
    """Raises ClusterError if Ray Data is not; it is not imported, which takes seconds."""
    for name in ("ray", "pyarrow", "pandas"):
        if find_spec(name) is None:
            raise ClusterError(f"--ray needs {name}, which is not installed: {installing('ray')}")


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray, connected to the cluster at HOST:PORT until this is left.

    Without an address: to the one in $RAY_ADDRESS, or else that of this machine, or else to one
    that is started here and stopped in the end. Raises ClusterError.
    """
    address = address or os.environ.get("RAY_ADDRESS", "")
    if address not in ("", "auto", "local"):
        _check_answers(address)
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import ray
    import ray.data

    try:
        with _without_stderr():
            ray.init(address or None, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        reason = on_one_line(error.__cause__ or error)  # as a token that is missing
        raise ClusterError(f"--ray {address}: {reason}") from error
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors are raised as well
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # Ray prints there what it notices, as a machine that is lost; ours is printed in the end.
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        try:
            yield ray
        finally:
            ray.shutdown()


def one_line(error: BaseException) -> str:
    """The last line of an error that may have many, as Ray's that quote another's traceback."""
    return next(iter(reversed(str(error).strip().splitlines())), type(error).__name__).strip()


def _check_answers(address: str) -> None:
    """Raises ClusterError unless something there speaks gRPC, as a cluster's head does.

    Ray itself would try a web server, or what never answers, for minutes.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise ClusterError(
            f"--ray {address}: use HOST:PORT of the cluster's head, usually port 6379, from one of"
            " its machines"
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_S) as head:
            if os.environ.get("RAY_USE_TLS", "0") == "0":
                head.sendall(_HTTP2)
                found = head.recv(4)
                if found[3:] != _SETTINGS:
                    raise ClusterError(f"--ray {address}: what answers there is no Ray cluster")
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ClusterError(f"--ray {address}: no answer ({reason})") from error


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Of this process and those that it starts: Ray's C++ says there which level it logs at."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
