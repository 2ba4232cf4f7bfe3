"""Counts, lists and other programs' errors in messages."""

from collections.abc import Sequence


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """`1 image`, `2 images`; `plural` where it is not the noun with an s. Thousands have commas."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def some(names: Sequence[str], most: int = 5) -> str:
    """The first `most` names, and how many more there are: `a, b and 3 more`."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def on_one_line(text: object) -> str:
    """The text of an error, say, whose lines and indentation become single spaces."""
    return " ".join(str(text).split())


def installing(extra: str) -> str:
    """How to install an extra. Not by name: `labrador` on PyPI is another project."""
    return f"pip install '.[{extra}]' in Labrador's checkout"
