"""Waiting for what another thread or process does."""

import subprocess
import time
from collections.abc import Callable
from contextlib import suppress

import httpx

START_S = 60
WITHIN_S = 20  # a test fails if what it waits for takes longer; below the service's TIMEOUT_S


def until(condition: Callable[[], bool], within_s: float = WITHIN_S) -> None:
    """Wait until the condition is true, in small steps at first. Fails if it does not become so."""
    began_s = time.monotonic()
    while not condition():
        waited_s = time.monotonic() - began_s
        assert waited_s < within_s, f"it did not become true within {within_s:g} s"
        time.sleep(min(0.1, 0.005 + waited_s / 20))


def until_it_answers(name: str, process: subprocess.Popen[bytes], ask: Callable[[], None]) -> None:
    """Call `ask` until it finds the server that the process starts."""
    end_s = time.monotonic() + START_S
    while True:
        with suppress(httpx.TransportError):
            return ask()
        assert process.poll() is None, f"{name} ended with {process.returncode}"
        assert time.monotonic() < end_s, f"{name} does not answer within {START_S} s"
        time.sleep(0.05)
