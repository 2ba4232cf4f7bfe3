"""`labrador COMMAND …`: the commands of all packages under one name, from any folder.

Only the package of the command is imported, so either can be installed without the other.
"""

import importlib
import os
import sys
from collections.abc import Mapping
from importlib import metadata

from models.wording import installing

COMMANDS: Mapping[str, Mapping[str, str]] = {
    "training": {
        "inspect": "look at images and labels before training",
        "lr-find": "find a learning rate",
        "train": "fine-tune a ResNet",
        "evaluate": "measure a run or a bundle",
        "compare": "show whether one finished run is better than another",
        "export": "turn a run into a bundle that can be served",
        "release": "export, and serve it if it is no worse than what is released",
    },
    "models": {
        "list": "list versions: what is released, since when, and why",
        "show": "show what a version's manifest says",
        "verify": "check every file of versions against its hash",
        "rollback": "serve an earlier version again",
        "prune": "remove old versions; without --yes only say which",
    },
    "serving": {
        "serve": "start the HTTP service; the options are those of `bentoml serve`",
        "predict": "answer for files and folders, without a server",
        "bench": "load-test a running service",
    },
}
_EXTRAS = {"training": "train", "serving": "serve"}  # of pyproject.toml


def main(arguments: list[str] | None = None) -> int:
    """Run a command; its exit code. 2 for an unknown one, 1 where its libraries are missing."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return 0 if words else 2
    if words[0] == "--version":
        print(f"labrador {metadata.version('labrador')}")
        return 0
    package = next((name for name, verbs in COMMANDS.items() if words[0] in verbs), None)
    if package is None:
        valid = ", ".join(verb for verbs in COMMANDS.values() for verb in verbs)
        print(f"labrador: error: unknown command {words[0]!r}; valid: {valid}", file=sys.stderr)
        return 2
    try:
        if words[0] == "serve":
            return _serve(words[1:])
        code: int = importlib.import_module(f"{package}.__main__").main(words, prog="labrador")
    except ModuleNotFoundError as error:
        if package not in _EXTRAS:  # `models` needs only what is always installed
            raise
        print(
            f"labrador: error: {words[0]} needs {error.name}, which is not installed:"
            f" {installing(_EXTRAS[package])}",
            file=sys.stderr,
        )
        return 1
    return code


def _serve(options: list[str]) -> int:
    importlib.import_module("bentoml")
    command = [sys.executable, "-m", "bentoml", "serve", "serving.service:Labrador", *options]
    os.execv(sys.executable, command)


def _help() -> str:
    lines = ["usage: labrador COMMAND …    (labrador COMMAND --help says more)"]
    for package, verbs in COMMANDS.items():
        lines += ["", f"{package}:", *(f"  {verb:9} {text}" for verb, text in verbs.items())]
    return "\n".join(lines)
