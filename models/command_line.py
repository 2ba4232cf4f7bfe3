"""What the command lines of `models` and `training` share; quick to import."""

import argparse
import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path

from models.errors import BundleError
from models.store import Store, default_location, default_trust, location


def parse(parser: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """As `parser.parse_args`, but an unknown option is refused with the nearest valid one.

    Each command sets itself as the default of `parser`.
    """
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        options.parser.error("; ".join(_unknown(unknown, options.parser)))
    return options


def add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--store",
        type=_location,
        help="folder with the bundles, or a URL as s3://BUCKET/PREFIX, gs:// or az://; default:"
        " $LABRADOR_MODEL_STORE or models/bundles",
    )


def add_rollback(parser: argparse.ArgumentParser) -> None:
    """The arguments of `rollback`."""
    parser.add_argument("name", metavar="NAME")
    parser.add_argument(
        "--to",
        type=int,
        metavar="VERSION",
        help="default: the one that the released version replaced",
    )
    add_store(parser)


def store_of(where: Path | str | None) -> Store:
    """The store of a command; None: the default one. Raises BundleError for a URL of another kind.

    $LABRADOR_TRUST says whose signatures it trusts.
    """
    return Store(default_location() if where is None else where, default_trust())


def _location(text: str) -> Path | str:
    try:
        return location(text)
    except BundleError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _unknown(words: Sequence[str], parser: argparse.ArgumentParser) -> Iterator[str]:
    """What is wrong with words that the command does not have."""
    flags = [word.partition("=")[0] for word in words if word.startswith("-")]
    for flag in flags:
        near = difflib.get_close_matches(flag, parser._option_string_actions, n=1)
        hint = f"did you mean {near[0]}?" if near else f"{parser.prog} --help lists the valid ones"
        yield f"unknown option {flag}; {hint}"
    if not flags:
        yield f"unexpected: {' '.join(words)}"
