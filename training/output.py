"""What a long command tells while it works: one bar with the time that is left, and notes.

The bar is on stderr and in a terminal only; a pipe or a log gets the notes alone, without a control
character. `quiet` leaves away both: what a command prints with `print` is its result.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

_QUIET = ContextVar("quiet", default=False)
_WHOLE: ContextVar["Whole | None"] = ContextVar("whole", default=None)
_FORMAT = "{desc}{percentage:3.0f}% |{bar}| {remaining} left"


class Whole:
    """The bar of a whole piece of work."""

    def __init__(self, bar: "tqdm[Any]") -> None:
        self._bar = bar

    def begin(self, words: str) -> None:
        """Say which part of it is next."""
        self._bar.set_description(words)

    def advance(self, amount: float) -> None:
        """amount: of the `total`."""
        self._bar.update(amount)


@contextmanager
def quiet(silent: bool = True) -> Iterator[None]:
    """Without bars and notes while the block runs, if `silent`."""
    before = _QUIET.set(silent or _QUIET.get())
    try:
        yield
    finally:
        _QUIET.reset(before)


@contextmanager
def whole(total: float, done: float = 0) -> Iterator[Whole]:
    """One bar for the whole of what the block does; what `each` goes through adds no second one.

    total, done: work in any unit, of which a second should always do about the same.
    """
    with tqdm(
        total=total,
        initial=done,
        bar_format=_FORMAT,
        smoothing=0,  # the mean speed since it began: the ends of epochs differ from the rest
        leave=False,
        disable=_disabled(),
    ) as bar:
        found = Whole(bar)
        before = _WHOLE.set(found)
        try:
            yield found
        finally:
            _WHOLE.reset(before)


def each(items: Iterable[Item], words: str, unit: str, total: int | None = None) -> Iterable[Item]:
    """The items, with a bar if there is none of the whole. words: what is done to them."""
    hidden = _WHOLE.get() is not None
    disable = True if hidden else _disabled()
    return tqdm(items, words, total, unit=f" {unit}", leave=False, disable=disable)


def shown() -> bool:
    """Whether there are bars: for what draws its own."""
    return sys.stderr.isatty() and not _QUIET.get()


def note(text: str) -> None:
    """Print a line about the work, above the bar."""
    if not _QUIET.get():
        tqdm.write(text, file=sys.stdout)


def warn(text: str) -> None:
    """Print a warning to stderr, above the bar, also if quiet."""
    tqdm.write(f"warning: {text}", file=sys.stderr)


def _disabled() -> bool | None:
    """As tqdm's `disable`: None is everywhere but in a terminal."""
    return True if _QUIET.get() else None
