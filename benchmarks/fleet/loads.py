"""The loads of the simulation: seconds since the start -> images a second."""

import math
from collections.abc import Callable

Load = Callable[[float], float]
DAY_S = 4 * 3600.0  # a day in four hours: it rises six times as steeply as a real one


def day(now_s: float) -> float:
    """From 20 at night to 200 at noon."""
    return 110 - 90 * math.cos(2 * math.pi * now_s / DAY_S)


def step(now_s: float) -> float:
    """40, and ten times that from minute 5 to 25."""
    return 400 if 300 <= now_s < 1500 else 40


def flash(now_s: float) -> float:
    """40; from minute 5 it rises to a hundred times that within 30 s, stays for 5 minutes."""
    risen = min(1.0, max(0.0, (now_s - 300) / 30), max(0.0, (660 - now_s) / 30))
    return 40 + 3960 * risen
