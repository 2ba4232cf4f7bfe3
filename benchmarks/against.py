"""A server of this checkout beside that of another commit: what all that came since costs when off.

python -m benchmarks.against COMMIT [ROUNDS]

Starts both in turn, ROUNDS (5) times, each with a tiny model that its own commit made and no other
setting, and asks each for `REQUESTS` answers, one after the other. Prints the medians and ranges of
both, and the median of the ratios within a round: CPU of the start in all its processes, seconds
until it is ready, the worker's memory and its CPU for a request.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import httpx
import psutil

from benchmarks.servers import cpu_s
from models.hardware import cpu_cores, processor
from testkit import tiny_models
from testkit.servers import ROOT, serve

REQUESTS, WARM_UP = 600, 100
FIGURES = ("start, CPU s", "start, s", "memory, MB", "a request, CPU ms")
_ADD = (
    "import sys; from pathlib import Path; from testkit import tiny_models; "
    "tiny_models.add(Path(sys.argv[1]), 'colours', 'single')"
)


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        subprocess.run(["git", "worktree", "add", "-q", "--detach", tree, commit], check=True)
        try:
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], check=True)


def measure(root: Path) -> tuple[float, ...]:
    """The `FIGURES` of one server of this checkout."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        subprocess.run([sys.executable, "-c", _ADD, store], cwd=root, check=True)
        began_s = time.perf_counter()
        with serve(Path(folder), root=root, model_store=store) as server:
            start_s = time.perf_counter() - began_s
            own = psutil.Process(server.process.pid)
            start_cpu_s = sum(map(cpu_s, [own, *own.children(recursive=True)]))
            worker = psutil.Process(server.worker())
            with httpx.Client(verify=False) as client:
                image = tiny_models.picture()
                for number in range(WARM_UP + REQUESTS):
                    if number == WARM_UP:
                        before_s = cpu_s(worker)
                    client.post(f"{server.url}/classify", content=image).raise_for_status()
            request_ms = 1000 * (cpu_s(worker) - before_s) / REQUESTS
            memory_mb = worker.memory_info().rss / 1e6
    return start_cpu_s, start_s, memory_mb, request_ms


def main(commit: str, rounds: int) -> None:
    print(f"{processor()}, {cpu_cores()} cores\n")
    with checkout(commit) as other:
        seen = [(measure(other), measure(ROOT)) for _ in range(rounds)]
    print(f"| | {commit} | now | now / {commit} |\n|---|---|---|---|")
    for number, name in enumerate(FIGURES):
        before, now = ([pair[which][number] for pair in seen] for which in (0, 1))
        ratios = [new / old for old, new in zip(before, now, strict=True)]
        print(f"| {name} | " + " | ".join(map(_range, (before, now, ratios))) + " |")


def _range(values: list[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5)
