"""The command line: `python -m models COMMAND …`, which looks after a store and needs no torch.

Exit codes: 0 done; 1 refused or failed, with one line that says why; 2 wrong usage.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any

from models import command_line
from models.commands.list import list_versions
from models.commands.prune import prune
from models.commands.rollback import rollback
from models.commands.show import show
from models.commands.verify import verify
from models.errors import LabradorError


def main(arguments: list[str] | None = None, prog: str = "python -m models") -> int:
    options = vars(command_line.parse(parser(prog), arguments))
    run, where = options.pop("run"), options.pop("store")
    del options["parser"]
    try:
        run(store=command_line.store_of(where), **options)
    except (LabradorError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def parser(prog: str = "python -m models") -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(
        prog=prog,
        description="Look after a store of models: what is released, whether it is whole, the way"
        " back.",
        epilog="Exit codes: 0 done; 1 refused or failed, with one line saying why; 2 wrong usage.",
    )
    commands = whole.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[..., Any], help: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help, description=help)
        added.set_defaults(run=run, parser=added)
        return added

    listing = command("list", list_versions, "list versions: what is released, since when, and why")
    listing.add_argument("name", metavar="NAME", nargs="?", help="default: all models")
    _add_json(listing)
    command_line.add_store(listing)

    showing = command("show", show, "show what a version's manifest says")
    showing.add_argument("model", metavar="MODEL", help="NAME (its released version), NAME:VERSION")
    _add_json(showing)
    command_line.add_store(showing)

    verifying = command(
        "verify",
        verify,
        "check every file of versions against its hash, and where $LABRADOR_TRUST names public keys"
        " the signatures",
    )
    verifying.add_argument(
        "models",
        metavar="MODEL",
        nargs="*",
        help="NAME (all its versions) or NAME:VERSION; default: all models",
    )
    command_line.add_store(verifying)

    returning = command("rollback", rollback, "serve an earlier version by default again")
    command_line.add_rollback(returning)

    pruning = command(
        "prune",
        prune,
        "remove old versions, and what interrupted exports left; without --yes only say which",
    )
    pruning.add_argument("name", metavar="NAME", nargs="?", help="default: all models")
    pruning.add_argument(
        "--keep",
        type=_positive,
        default=3,
        metavar="N",
        help="how many of the newest versions to keep besides the released one and the one that it"
        " replaced, which always stay; default: %(default)s",
    )
    pruning.add_argument("--yes", action="store_true", help="remove them")
    command_line.add_store(pruning)
    return whole


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", dest="as_json", action="store_true", help="print JSON")


def _positive(text: str) -> int:
    # With 0 the highest number could go, and the next export would use it for another network.
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: use 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
