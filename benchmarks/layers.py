"""What a request costs, layer by layer: the CPU time of each, in Labrador and its peers.

python -m benchmarks.layers WORK IMAGES

WORK and IMAGES as for `benchmarks.serving`. The real servers, one after the other, with a network
that costs almost nothing and 8 clients. CPU time is the kernel's, per thread; the main
thread's is broken down by a profile of a second load (cProfile on the thread's CPU time), and what
remains is the event loop's own (uvloop, libuv, system calls). A busy machine affects these times
less than wall-clock times.
"""

import asyncio
import json
import pstats
import signal
import sys
import time
from collections import defaultdict
from pathlib import Path

import aiohttp
import psutil

from benchmarks.servers import (
    LABRADOR,
    SERVERS,
    Running,
    Server,
    bodies_of,
    cpu_s,
    headers_of,
    images_of,
    prepare,
    running,
    stores,
)
from models.hardware import processor
from serving.bench import Load, closed
from testkit.servers import ROOT

SECONDS, CLIENTS = 6.0, 8
LAYERS = {  # part of a source file's path -> layer; the first match counts
    "serving/body": "parsing",
    "serving/parameters": "parsing",
    "multipart": "parsing",
    "serving/batcher": "queue",
    "serving/deadline": "queue",
    "concurrent/futures": "handover between threads",
    "threading": "handover between threads",
    "anyio": "handover between threads",
    "uvicorn": "uvicorn",
    "prometheus_client": "metrics",
    "serving/observability/metrics": "metrics",
    "starlette/responses": "response",
    "json": "response",
    "models/decision": "response",
    "fastapi": "FastAPI",
    "starlette": "Starlette",
    "opentelemetry": "BentoML",
    "bentoml": "BentoML",
    "simple_di": "BentoML",
    "asyncio": "asyncio",
    "contextlib": "asyncio",
    "serving/": "Labrador's own",
}
REST = "other Python"
LOOP = "event loop and system calls"


def layer(file: str) -> str:
    return next((name for part, name in LAYERS.items() if part in file), REST)


def by_layer(stats: pstats.Stats) -> defaultdict[str, float]:
    """Seconds in each layer; those in a builtin go to the layers that called it."""
    seconds: defaultdict[str, float] = defaultdict(float)
    entries = stats.stats  # type: ignore[attr-defined]
    for (file, _, _), (_, _, own_s, _, callers) in entries.items():
        if file != "~":
            seconds[layer(file)] += own_s
            continue
        for (caller, _, _), (_, _, called_s, _) in callers.items():
            seconds[layer(caller)] += called_s
    return seconds


async def costs(
    server: Server, at: Running, bodies: list[bytes], profile: Path
) -> dict[str, float]:
    """Layer -> microseconds of CPU per answer."""
    family = at.processes()
    async with aiohttp.ClientSession(headers=headers_of(server)) as http:
        before = [cpu_s(p) for p in family]
        await closed(http, at.url, bodies, CLIENTS, 2.0, Load("warm-up"))
        used = [cpu_s(p) - b for p, b in zip(family, before, strict=True)]
        worker = family[used.index(max(used))]
        started, load = _threads(worker), Load("plain")
        await closed(http, at.url, bodies, CLIENTS, SECONDS, load)
        ended = _threads(worker)
        worker.send_signal(signal.SIGUSR1)
        await closed(http, at.url, bodies, CLIENTS, SECONDS, Load("profiled"))
        worker.send_signal(signal.SIGUSR2)
        while not profile.exists():
            await asyncio.sleep(0.1)
    details = json.loads(Path(f"{profile}.json").read_text())
    found: defaultdict[str, float] = defaultdict(float)
    for thread, thread_s in ended.items():
        answer_us = 1e6 * (thread_s - started.get(thread, 0)) / len(load.times)
        if thread == worker.pid:
            found.update(_divided(answer_us, profile, details["cpu_s"]))
        elif details["threads"].get(str(thread), "").startswith("decode"):
            found["decode"] += answer_us
        else:
            found["model" if server is LABRADOR else "decode and model"] += answer_us
    return found


def _divided(main_us: float, profile: Path, whole_s: float) -> dict[str, float]:
    """The main thread's time, divided in proportion to the profile."""
    seconds = by_layer(pstats.Stats(str(profile)))
    seconds[LOOP] = max(0.0, whole_s - sum(seconds.values()))
    return {name: main_us * s / whole_s for name, s in seconds.items()}


def _threads(process: psutil.Process) -> dict[int, float]:
    return {t.id: t.user_time + t.system_time for t in process.threads()}


def main(work: Path, folder: Path) -> None:
    print(f"{processor()}\n")
    prepare(work)
    images = images_of(folder)
    store, _ = stores(work)["tiny network"]
    found: dict[str, dict[str, float]] = {}
    for server in SERVERS:
        if server.name == "LitServe":  # three processes, each of which does a part
            continue
        profile = work / f"{server.name}.{time.time_ns()}.profile"
        extra = {"PYTHONPATH": str(ROOT / "benchmarks" / "profiling"), "PROFILE": str(profile)}
        bodies = bodies_of(server, images)
        with running(server, work, store, bodies, extra) as at:
            found[server.name] = asyncio.run(costs(server, at, bodies, profile))
    print(f"| CPU, µs per answer | {' | '.join(found)} |\n|---{'|---' * len(found)}|")
    layers = sorted({name for own in found.values() for name in own})
    layers.sort(key=lambda name: -max(own.get(name, 0) for own in found.values()))
    for name in layers:
        cells = (f"{own[name]:.0f}" if own.get(name, 0) >= 0.5 else "" for own in found.values())
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"| sum | {' | '.join(f'{sum(own.values()):.0f}' for own in found.values())} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), Path(sys.argv[2]))
