"""Training beside busy processes: how long OpenMP's threads should spin, and how many to use.

python -m benchmarks.neighbours [ROUNDS [SIZE_PX]]

OpenMP's threads meet at a barrier hundreds of times a step. In torch's own OpenMP, GNU's, they spin
there for a while before they sleep. That is fastest on idle cores; but while the thread that the
others wait for has no core, they burn its time. Trains a ResNet-18 on noise images at SIZE_PX
(128), in one process for each GOMP_SPINCOUNT and one with a single thread, alone and beside one and
two processes that compute. They take turns, ROUNDS (7) times; prints medians in images a second,
and their range.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from statistics import median

from models.hardware import cpu_cores, processor

SETTINGS: dict[str, dict[str, str]] = {
    "as it comes": {},
    **{f"`GOMP_SPINCOUNT={count}`": {"GOMP_SPINCOUNT": count} for count in ("0", "1000", "100000")},
    "`OMP_NUM_THREADS=1`": {"OMP_NUM_THREADS": "1"},
}
NEIGHBOURS = (0, 1, 2)


def train(size_px: int) -> None:
    """The process that trains: for each line of its input, the images a second of some steps."""
    from benchmarks.noise_steps import BATCH, STEPS, noise_steps  # torch reads GOMP_SPINCOUNT

    noise = noise_steps(size_px)
    tuning, optimizer = noise.tuning()
    for _ in chain([""], sys.stdin):  # the first round warms up
        began = time.perf_counter()
        for batch in noise.batches():
            tuning.step(tuning.network, optimizer, batch)
        print(STEPS * BATCH / (time.perf_counter() - began), flush=True)


@contextmanager
def _busy(count: int) -> Iterator[None]:
    """Processes that compute while the block runs, or until this process dies. Each in a session
    of its own, as those of other users are: Linux may share the cores out by session.
    """
    compute = f"import os\nwhile os.getppid() == {os.getpid()}:\n    sum(range(100_000))"
    command = [sys.executable, "-c", compute]
    busy = [subprocess.Popen(command, start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def _started(setting: dict[str, str], size_px: int) -> subprocess.Popen[str]:
    ours = ("GOMP_SPINCOUNT", "OMP_NUM_THREADS")
    environment = {k: v for k, v in os.environ.items() if k not in ours} | setting
    command = [sys.executable, "-m", "benchmarks.neighbours", "--train", str(size_px)]
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    _read(process)
    return process


def _read(process: subprocess.Popen[str]) -> float:
    assert process.stdout is not None
    return float(process.stdout.readline())


def _asked(process: subprocess.Popen[str]) -> float:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return _read(process)


def measure(rounds: int, size_px: int) -> dict[tuple[str, int], list[float]]:
    """Images a second of each round, by setting and number of neighbours."""
    seen: dict[tuple[str, int], list[float]] = {}
    trainings = {name: _started(setting, size_px) for name, setting in SETTINGS.items()}
    try:
        for _ in range(rounds):
            for count in NEIGHBOURS:
                with _busy(count):
                    for name, training in trainings.items():
                        seen.setdefault((name, count), []).append(_asked(training))
    finally:
        for training in trainings.values():
            training.kill()
            training.wait()
    return seen


def main(rounds: int, size_px: int) -> None:
    print(f"{processor()}, {cpu_cores()} cores; ResNet-18 at {size_px}, images a second\n")
    seen = measure(rounds, size_px)
    print("| environment | alone | beside one busy process | beside two |\n|---|---|---|---|")
    for name in SETTINGS:
        cells = (seen[name, count] for count in NEIGHBOURS)
        row = (f"{median(cell):.0f} ({min(cell):.0f} to {max(cell):.0f})" for cell in cells)
        print(f"| {name} | {' | '.join(row)} |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        train(int(sys.argv[2]))
    else:
        given = [int(word) for word in sys.argv[1:]]
        main(*(given + [7, 128][len(given) :]))
