"""Waiting for what another thread or process does."""

import time
from collections.abc import Callable

WITHIN_S = 60  # what has not come by then does not come


def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition is true, in small steps at first. Fails if it does not become so."""
    began_s = time.monotonic()
    while not condition():
        waited_s = time.monotonic() - began_s
        assert waited_s < WITHIN_S, f"it did not become true within {WITHIN_S} s"
        time.sleep(min(0.1, 0.005 + waited_s / 20))
