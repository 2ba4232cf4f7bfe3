"""Commands one after another in a process of their own, which tells what they have imported.

Of those that import too much the first fails, and so does each that follows it.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from testkit.servers import ROOT

_SCRIPT = """
import importlib, sys
before = set(sys.modules)
main = importlib.import_module(sys.argv[1]).main
import contextlib, io, json
for line in sys.stdin:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            code = main(json.loads(line))
        except SystemExit as exit:
            code = exit.code
    names = {name.partition(".")[0] for name in set(sys.modules) - before}
    found = sorted(names - set(sys.stdlib_module_names))
    print(json.dumps([code, printed.getvalue(), found]), flush=True)
"""


class Answer(NamedTuple):
    """code: of the exit; printed: to stdout and stderr; imported: libraries, since the start."""

    code: int
    printed: str
    imported: set[str]


Ask = Callable[[Sequence[str]], Answer]


@contextmanager
def asked(module: str) -> Iterator[Ask]:
    """Call the `main` of a module with the words of a command line."""
    script = [sys.executable, "-c", _SCRIPT, module]
    with subprocess.Popen(
        script, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        question, answer = process.stdin, process.stdout

        def ask(words: Sequence[str]) -> Answer:
            print(json.dumps(words), file=question, flush=True)
            code, printed, imported = json.loads(answer.readline())
            return Answer(code, printed, set(imported))

        yield ask
