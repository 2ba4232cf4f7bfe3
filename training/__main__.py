"""The command line: `python -m training COMMAND …`.

Exit codes: 0 done; 1 refused or failed, with one line that says why; 2 wrong usage.
"""

import importlib
import io
import os
import signal
import sys
from contextlib import nullcontext, redirect_stdout
from typing import Any

from models.errors import LabradorError, RecipeError
from training import output
from training.arguments import parse
from training.options import parser


def main(arguments: list[str] | None = None, prog: str = "python -m training") -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # shows each epoch at once, in a log file too
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt_once)
    try:
        call = parse(arguments, prog)
        with open(os.devnull, "w") as nowhere:
            first = int(os.environ.get("RANK", 0)) == 0  # of the processes that torchrun started
            with nullcontext() if first else redirect_stdout(nowhere):
                # imported late: importing torch takes seconds
                command = importlib.import_module(f"training.commands.{call.module}")
                with output.quiet(call.quiet or not first):
                    getattr(command, call.function)(**call.arguments)
    except RecipeError as error:
        parser(prog).error(str(error))
    except (LabradorError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(interrupt if interrupt.args else "interrupted", file=sys.stderr)
        return 130
    finally:
        if signal.getsignal(signal.SIGINT) is _interrupt_once:
            signal.signal(signal.SIGINT, handler)
    return 0


def _interrupt_once(*_: Any) -> None:
    """Ctrl-C stops the command; pressed again, it does not break into the clean-up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
