"""Labrador's service against its peers: same network, images, machine and threads; in turn.

python -m benchmarks.serving WORK IMAGES [ROUNDS]

WORK gets the peers' environments (pinned in `benchmarks/peers`), the models and the logs; IMAGES is
a folder of JPEGs. Two networks: ResNet-50 at 224 pixels, where ONNX Runtime alone is the limit, and
one that computes the mean colour, which leaves only the server's own cost. Every round (three by
default) starts each server, waits until it answers, warms it up, and measures the highest rate with
16 clients and the CPU time per answer, the latency of a lone request, the 99th percentile at 80 %
of the highest rate (open loop, evenly spaced and Poisson arrivals), and the resident memory of its
processes. Labrador runs twice: as it chooses, and in fp32 as its peers do. Prints medians and the
range of the rounds, and Labrador at ten times its highest rate. A load during which the host took
more than a tenth of the cores away is repeated once.
"""

import asyncio
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypeVar

import aiohttp
import numpy as np
import onnxruntime
import psutil
import uvloop

from benchmarks.servers import (
    LABRADOR,
    SERVERS,
    THREADS,
    Running,
    Server,
    bodies_of,
    headers_of,
    images_of,
    prepare,
    running,
    stores,
)
from models.hardware import processor
from models.manifest import MODEL_FILE
from serving.bench import Load, closed, opened, timed

CLIENTS, SECONDS = 16, 6.0
STOLEN, ATTEMPTS = 0.1, 2
_T = TypeVar("_T")


@dataclass
class Measurements:
    """One list entry per round: answers per second, milliseconds, MB, seconds."""

    rate: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    alone_ms: list[float] = field(default_factory=list)
    even_p99_ms: list[float] = field(default_factory=list)
    poisson_p99_ms: list[float] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)
    start_s: list[float] = field(default_factory=list)


def undisturbed(measurement: Callable[[], _T]) -> _T:
    """Its result while the host leaves us the cores, or else the less disturbed of two attempts."""
    results: list[tuple[float, _T]] = []
    while not results or (results[-1][0] > STOLEN and len(results) < ATTEMPTS):
        stolen_s, began = psutil.cpu_times().steal, time.perf_counter()
        result = measurement()
        stolen_s, wall_s = psutil.cpu_times().steal - stolen_s, time.perf_counter() - began
        results.append((stolen_s / wall_s / (os.cpu_count() or 1), result))
    return min(results, key=lambda entry: entry[0])[1]


def drive(
    server: Server,
    url: str,
    bodies: Sequence[bytes],
    seconds: float,
    clients: int = 0,
    rate: float = 0,
    even: bool = False,
) -> Load:
    """A closed loop of `clients` clients or, if there are none, an open one at `rate`."""

    async def session() -> Load:
        load, connector = Load(server.name), aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, headers=headers_of(server)) as http:
            if clients:
                load_run = closed(http, url, bodies, clients, seconds, load)
            else:
                load_run = opened(http, url, bodies, rate, seconds, load, even)
            await timed(load, load_run)
        return load

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(session())


def measure(server: Server, at: Running, bodies: Sequence[bytes], found: Measurements) -> float:
    """Add the measurements; returns the share of a core this client used at the highest rate."""

    def load(seconds: float, clients: int = 0, rate: float = 0, even: bool = False) -> Load:
        return undisturbed(lambda: drive(server, at.url, bodies, seconds, clients, rate, even))

    def at_the_highest() -> tuple[Load, float]:
        before_s = at.cpu_s()
        return drive(server, at.url, bodies, SECONDS, CLIENTS), at.cpu_s() - before_s

    drive(server, at.url, bodies, 2.0, clients=4)  # warm-up
    alone = load(SECONDS / 2, clients=1)
    highest, cpu_s = undisturbed(at_the_highest)
    rate = len(highest.times) / highest.wall_s
    even = load(SECONDS, rate=0.8 * rate, even=True)
    poisson = load(SECONDS, rate=0.8 * rate)
    loads = (alone, highest, even, poisson)
    if lost := {code for load in loads for code in load.codes} - {"200"}:
        print(f"{server.name} also answered {', '.join(sorted(lost))}", file=sys.stderr)
    found.rate.append(rate)
    found.cpu_ms.append(1000 * cpu_s / len(highest.times))
    found.alone_ms.append(1000 * median(alone.times))
    found.even_p99_ms.append(_p99_ms(even))
    found.poisson_p99_ms.append(_p99_ms(poisson))
    found.memory_mb.append(at.memory_mb())
    found.start_s.append(at.start_s)
    return highest.client_cpu_s / highest.wall_s


def _p99_ms(load: Load) -> float:
    return 1000 * float(np.quantile(load.times or [np.nan], 0.99))


def overload(at: Running, bodies: Sequence[bytes], rate: float) -> str:
    """Ten times the highest rate: how much is still answered, and how fast the rest is refused."""
    load = undisturbed(lambda: drive(LABRADOR, at.url, bodies, SECONDS, rate=10 * rate))
    p50, p99 = 1000 * np.quantile(load.shed_times or [np.nan], [0.5, 0.99])
    return (
        f"At ten times that: {len(load.times) / load.wall_s / rate:.2f} of the highest rate is"
        f" answered (goal 0.95); {len(load.shed_times)} refused in {p50:.0f} ms, 99 % within"
        f" {p99:.0f} ms (goal 20); {dict(load.codes)}; the client used"
        f" {load.client_cpu_s / load.wall_s:.0%} of a core"
    )


def limit(model: Path, side_px: int) -> float:
    """Images per second of ONNX Runtime alone in fp32, at its best batch size."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    best = 0.0
    for batch in (1, 4, 8, 16, 32):
        images = np.random.default_rng(0).integers(0, 256, (batch, side_px, side_px, 3), np.uint8)
        session.run(["scores"], {"images": images})
        began, runs = time.perf_counter(), 0
        while time.perf_counter() - began < SECONDS / 5:
            session.run(["scores"], {"images": images})
            runs += 1
        best = max(best, runs * batch / (time.perf_counter() - began))
    return best


def table(name: str, found: dict[str, Measurements], limits: Sequence[float]) -> str:
    heads = [
        name,
        "answers/s",
        "relative to ONNX Runtime alone",
        "relative to FastAPI",
        "CPU ms per answer",
    ]
    heads += ["alone, ms", "p99 / alone, even", "p99 / alone, Poisson", "MB", "start, s"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    spread = f"{median(limits):.0f} ({min(limits):.0f} to {max(limits):.0f})"
    lines.append(f"| ONNX Runtime alone, fp32 | {spread} | 1.00 |{' |' * 7}")
    for server, own in found.items():
        cells = [server, f"{median(own.rate):.0f} ({min(own.rate):.0f} to {max(own.rate):.0f})"]
        cells += [_ratios(own.rate, limits), _ratios(own.rate, found["FastAPI"].rate)]
        cells += [f"{median(own.cpu_ms):.1f}"]
        cells += [f"{median(own.alone_ms):.1f}", f"{_ratio(own.even_p99_ms, own.alone_ms):.1f}"]
        cells += [f"{_ratio(own.poisson_p99_ms, own.alone_ms):.1f}"]
        cells += [f"{median(own.memory_mb):.0f}", f"{median(own.start_s):.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _ratios(these: Sequence[float], those: Sequence[float]) -> str:
    """The median of the rounds' ratios, and their range."""
    ratios = [a / b for a, b in zip(these, those, strict=True)]
    return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _ratio(these: Sequence[float], those: Sequence[float]) -> float:
    """The median of the rounds' ratios."""
    return median(a / b for a, b in zip(these, those, strict=True))


def main(work: Path, folder: Path, rounds: int) -> None:
    print(f"{processor()}\n")
    prepare(work)
    images = images_of(folder)
    size_kib = np.mean([len(p) for p in images]) / 1024
    print(f"{len(images)} images of {size_kib:.0f} KiB; {THREADS} cores; {rounds} rounds\n")
    for name, (store, side_px) in stores(work).items():
        found = {server.name: Measurements() for server in SERVERS}
        limits: list[float] = []
        clients: list[float] = []
        last = ""
        for _ in range(rounds):
            model = store.path("bench") / MODEL_FILE
            limits.append(undisturbed(partial(limit, model, side_px)))
            for server in SERVERS:
                bodies = bodies_of(server, images)
                with running(server, work, store, bodies) as at:
                    own = found[server.name]
                    clients.append(measure(server, at, bodies, own))
                    last_round = {name: round(values[-1], 2) for name, values in vars(own).items()}
                    print(name, server.name, last_round, file=sys.stderr, flush=True)
                    if server is LABRADOR:
                        last = overload(at, bodies, own.rate[-1])
        print(table(name, found, limits))
        print(f"\n{last}\nThe client used {median(clients):.0%} of a core.\n", flush=True)


if __name__ == "__main__":
    main(
        Path(sys.argv[1]).absolute(),
        Path(sys.argv[2]),
        int(sys.argv[3]) if len(sys.argv) > 3 else 3,
    )
