"""Commands in their own processes, which can be killed, with narrow networks.

They are forked from a process that has imported everything: importing takes seconds each time.
"""

import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from testkit import narrow_resnet
from training.__main__ import main
from training.commands import train  # noqa: F401  main imports it only when needed
from training.fine_tuning.trainer import FineTuning
from training.recipe import Recipe

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["pytest", "testkit.processes"])


class Command:
    """`python -m training ARGUMENTS…`, started, on as many threads as the tests use."""

    def __init__(
        self,
        words: list[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        """`prepare` is called in the new process before the command; it must be picklable."""
        self.out, self.err = log.with_suffix(".out"), log.with_suffix(".err")
        arguments = (words, self.out, self.err, dict(environment or {}), prepare)
        self._process = _CONTEXT.Process(target=_run, args=arguments, daemon=True)
        self._process.start()

    def code(self, timeout_s: float = 120) -> int:
        """The exit code, or minus the signal that ended it. Killed after the timeout."""
        self._process.join(timeout_s)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join(timeout_s)
            raise AssertionError(f"still alive after {timeout_s} s: {self.err.read_text()}")
        return self._process.exitcode


def _run(
    words: list[str],
    out: Path,
    err: Path,
    environment: dict[str, str],
    prepare: Callable[[], None] | None,
) -> None:
    for file, handle in ((out, 1), (err, 2)):
        with file.open("wb") as opened:
            os.dup2(opened.fileno(), handle)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # multiprocessing ignores it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))  # as in the tests themselves
    narrow_resnet.put_in_place()
    if prepare:
        prepare()
    sys.exit(main(words))


# For `prepare`: the process sends itself a signal, at a point that no clock decides.


def signal_in_step(number: signal.Signals, step: int) -> None:
    """Send it instead of running this process's step with this number, from 0."""
    whole, left = FineTuning.step, step

    def counted(*arguments: Any) -> torch.Tensor:
        nonlocal left
        if left == 0:
            signal.raise_signal(number)
        left -= 1
        return whole(*arguments)

    FineTuning.step = counted  # type: ignore[method-assign, assignment]


def interrupt_in_step_and_after(step: int) -> None:
    """Ctrl-C in a step, and again whenever the run's lock is released."""
    release = FileLock.release

    def interrupted(self: FileLock, force: bool = False) -> None:
        signal.raise_signal(signal.SIGINT)
        release(self, force)
        signal.raise_signal(signal.SIGINT)

    FileLock.release = interrupted  # type: ignore[method-assign, assignment]
    signal_in_step(signal.SIGINT, step)


def kill_when_written(pattern: str, count: int) -> None:
    """When the `count`-th file whose name matches is written, but not yet in place."""
    whole, left = os.replace, count

    def counted(source: str, target: Path) -> None:
        nonlocal left
        left -= target.match(pattern)
        if left == 0:
            signal.raise_signal(signal.SIGKILL)
        whole(source, target)

    os.replace = counted  # type: ignore[assignment]


def train_arguments(recipe: Recipe, out: Path) -> list[str]:
    options = recipe.model_dump(exclude={"data"}, exclude_none=True)
    flags = (word for key, v in options.items() for word in (f"--{key.replace('_', '-')}", str(v)))
    return ["train", *recipe.sources, *flags, "--out", str(out)]


@contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    """The kernel refuses to let a file grow beyond this, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
