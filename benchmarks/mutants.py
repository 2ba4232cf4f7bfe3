"""Mutants of real image files over HTTP: is each answered, and what does the server keep?

python -m benchmarks.mutants [COUNT [IMAGES]]

Serves a tiny model and posts COUNT (100,000) damaged copies of JPEG, PNG and WebP files from the
folder IMAGES (default: drawn ones). Prints the answers by status and the worker's memory; fails if
there is another status than 200, 400, 415 and 422.
"""

import random
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import httpx
import psutil

from benchmarks import soak
from models.hardware import processor
from testkit import tiny_models
from testkit.servers import Server, serve

_CLIENTS = 4


def measure(
    server: Server, files: Sequence[bytes], mutants: int
) -> tuple[Counter[str], list[float]]:
    """Statuses, or errors, by how often; the worker's memory in MB before, and after each tenth.

    Mutant number n is the same in each run with the same files.
    """
    answers: list[str] = []  # not a Counter: several threads add to it
    numbers = count()
    worker = psutil.Process(server.worker())
    memory_mb = [worker.memory_info().rss / 1e6]

    def ask() -> None:
        with httpx.Client(timeout=60) as client:
            while (number := next(numbers)) < mutants:
                chance = random.Random(number)
                body = soak.mutant(chance.choice(files), chance)
                try:
                    answer = client.post(f"{server.url}/classify", content=body)
                    answers.append(str(answer.status_code))
                except httpx.HTTPError as error:
                    answers.append(repr(error))
                if number % max(1, mutants // 10) == 0 and number > 0:
                    memory_mb.append(worker.memory_info().rss / 1e6)

    with ThreadPoolExecutor(_CLIENTS) as pool:
        for client in [pool.submit(ask) for _ in range(_CLIENTS)]:
            client.result()  # raises what ended it
    memory_mb.append(worker.memory_info().rss / 1e6)
    assert worker.pid == server.worker(), f"the worker was replaced: {server.log()[-500:]}"
    return Counter(answers), memory_mb


def main(mutants: int, files: Sequence[bytes]) -> int:
    print(f"{processor()}\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny_models.add(folder / "store", "pets", "single")
        with serve(folder, model_store=folder / "store") as server:
            answers, memory_mb = measure(server, files, mutants)
    by_status = ", ".join(f"{status}: {number:,}" for status, number in sorted(answers.items()))
    print(f"{answers.total():,} mutants of {len(files)} files; answers: {by_status}")
    print(f"memory of the worker, MB: {', '.join(f'{value:.0f}' for value in memory_mb)}")
    return 0 if set(answers) <= set(map(str, soak.MUTANT_STATUSES)) else 1


if __name__ == "__main__":
    own = soak.real(Path(sys.argv[2])) if len(sys.argv) > 2 else soak.drawn()
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000, own))
