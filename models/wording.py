"""Counts in messages."""


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """`1 image`, `2 images`; `plural` where it is not the noun with an s. Thousands have commas."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"
