"""`python -m serving bench`: load-test a running service.

Closed loop: some clients, each with one request at a time; this gives the highest throughput. Open
loop: requests are sent at a given rate whether or not earlier ones are answered, and their latency
counts from when they were due, so a service that stalls cannot slow down its own test (coordinated
omission). Requests that were shed (429, 503, 504) and those that failed are counted separately and
never included in the latencies.
"""

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import numpy as np

from models.errors import LabradorError
from models.wording import counted
from serving.registry import ENDPOINTS

_SHED = {429, 503, 504}
_WARM_UP_S = 1.0
_BUSY = 0.8  # share of the time from which on a part counts as the bottleneck
_STAGES = ("read", "decode", "queue", "infer", "respond")


class LoadTestError(LabradorError):
    """A service that cannot be load-tested."""


@dataclass(frozen=True)
class Plan:
    """The loads to run, `seconds` each; `rates` in requests per second."""

    url: str
    model: str | None
    clients: tuple[int, ...]
    rates: tuple[float, ...]
    seconds: float
    api_key: str | None


@dataclass
class Load:
    """The results of one load. Times in seconds."""

    name: str
    wall_s: float = 0
    client_cpu_s: float = 0
    times: list[float] = field(default_factory=list)
    shed_times: list[float] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    stages: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Stage -> total seconds and number of observations, from the service's metrics."""
    workers: int = 1


async def measure(plan: Plan, files: Sequence[Path]) -> str:
    """Run each load and describe the results. Raises LoadTestError if the service can't be used."""
    images = [file.read_bytes() for file in files]
    headers = {"Authorization": f"Bearer {plan.api_key}"} if plan.api_key else {}
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as http:
        url = await _target(http, plan)
        await closed(http, url, images, 2, _WARM_UP_S, Load("warm-up"))
        loads = []
        for clients in plan.clients:
            load = Load(counted(clients, "client"))
            await _observed(
                http, plan, load, closed(http, url, images, clients, plan.seconds, load)
            )
            loads.append(load)
        for rate in plan.rates:
            load = Load(f"{rate:g}/s")
            await _observed(http, plan, load, opened(http, url, images, rate, plan.seconds, load))
            loads.append(load)
    size = np.mean([len(image) for image in images]) / 1024
    lines = [f"{url}, {counted(len(images), 'image')} of {size:.0f} KiB on average"]
    return "\n".join([*lines, "", *_table(loads), "", *(bottleneck(load) for load in loads)])


async def _target(http: aiohttp.ClientSession, plan: Plan) -> str:
    """The URL to post images to."""
    try:
        async with http.get(f"{plan.url}/models") as answer:
            body = await answer.json(content_type=None)
    except (aiohttp.ClientError, ValueError, TimeoutError) as error:
        raise LoadTestError(f"{plan.url} does not answer as a Labrador service: {error}") from error
    if answer.status != 200:
        raise LoadTestError(f"{plan.url}/models answers {answer.status}: {body.get('detail')}")
    tasks = {model["name"]: model["task"] for model in body["models"]}
    name = plan.model or (next(iter(tasks)) if len(tasks) == 1 else None)
    if name not in tasks:
        raise LoadTestError(f"--model {name}: choose one of {', '.join(tasks)}")
    return f"{plan.url}{ENDPOINTS[tasks[name]]}?model={name}"


async def _ask(
    http: aiohttp.ClientSession, url: str, image: bytes, load: Load, due_s: float
) -> None:
    try:
        async with http.post(url, data=image) as answer:
            await answer.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        load.codes[type(error).__name__] += 1
        return
    load.codes[str(answer.status)] += 1
    if answer.status == 200:
        load.times.append(time.perf_counter() - due_s)
    elif answer.status in _SHED:
        load.shed_times.append(time.perf_counter() - due_s)


async def closed(
    http: aiohttp.ClientSession,
    url: str,
    images: Sequence[bytes],
    clients: int,
    seconds: float,
    load: Load,
) -> None:
    """Run a number of clients, each with one request at a time. images: the request bodies."""
    end_s = time.perf_counter() + seconds
    turns = itertools.cycle(images)

    async def client() -> None:
        while (now_s := time.perf_counter()) < end_s:
            await _ask(http, url, next(turns), load, now_s)

    await asyncio.gather(*(client() for _ in range(clients)))


async def opened(
    http: aiohttp.ClientSession,
    url: str,
    images: Sequence[bytes],
    rate: float,
    seconds: float,
    load: Load,
    even: bool = False,
) -> None:
    """Send Poisson arrivals, drawn with a fixed seed, or evenly spaced ones. rate: per second."""
    pauses = np.full(max(1, round(rate * seconds)), 1 / rate)
    if not even:
        pauses = np.random.default_rng(0).exponential(pauses)
    start_s = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for due_s, image in zip(start_s + np.cumsum(pauses), itertools.cycle(images)):
            await asyncio.sleep(max(0.0, float(due_s) - time.perf_counter()))
            tasks.create_task(_ask(http, url, image, load, float(due_s)))


async def timed(load: Load, asking: Awaitable[None]) -> None:
    """Record how long `asking` takes, and how much CPU time this client uses."""
    cpu_s, start_s = time.process_time(), time.perf_counter()
    await asking
    load.wall_s, load.client_cpu_s = time.perf_counter() - start_s, time.process_time() - cpu_s


async def _observed(
    http: aiohttp.ClientSession, plan: Plan, load: Load, asking: Awaitable[None]
) -> None:
    before, _ = await _stages(http, plan)
    await timed(load, asking)
    after, load.workers = await _stages(http, plan)
    load.stages = {
        name: (after[name][0] - before[name][0], after[name][1] - before[name][1])
        for name in _STAGES
    }


async def _stages(
    http: aiohttp.ClientSession, plan: Plan
) -> tuple[dict[str, tuple[float, float]], int]:
    """Each stage's total seconds and count, and the number of workers, from the metrics."""
    async with http.get(f"{plan.url}/metrics") as answer:
        text = await answer.text()
    found = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))

    def value(kind: str, stage: str) -> float:
        """Summed over the models."""
        name, label = f"labrador_stage_seconds_{kind}{{", f'stage="{stage}"'
        return sum(
            float(value) for key, value in found.items() if key.startswith(name) and label in key
        )

    stages = {stage: (value("sum", stage), value("count", stage)) for stage in _STAGES}
    return stages, int(float(found.get("labrador_workers", 1)))


def _table(loads: Sequence[Load]) -> list[str]:
    heads = ["load", "answers/s", "p50 ms", "p90 ms", "p99 ms", "max ms", "shed", "failed"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for load in loads:
        shed = len(load.shed_times)
        failed = sum(load.codes.values()) - len(load.times) - shed
        times = load.times or [float("nan")]
        p50, p90, p99, most = 1000 * np.quantile(times, [0.5, 0.9, 0.99, 1])
        cells = [f"{len(load.times) / load.wall_s:.1f}"]
        cells += [f"{ms:.1f}" for ms in (p50, p90, p99, most)]
        lines.append(f"| {' | '.join([load.name, *cells, str(shed), str(failed)])} |")
    return lines


def bottleneck(load: Load) -> str:
    """One sentence: where the time went, and what limits the throughput."""
    answers = max(len(load.times), 1)
    means = ", ".join(
        f"{name} {1000 * seconds / count:.1f}"
        for name, (seconds, count) in load.stages.items()
        if count
    )
    infer_s, runs = load.stages["infer"]
    images = load.stages["queue"][1]
    shares = {
        "this client, so the service may be faster than this": load.client_cpu_s / load.wall_s,
        "the model": infer_s / load.wall_s / load.workers,
    }
    name, share = max(shares.items(), key=lambda entry: entry[1])
    bound = f"the bottleneck is {name}" if share >= _BUSY else "neither is the bottleneck"
    codes = ", ".join(f"{count}x {code}" for code, count in sorted(load.codes.items()))
    return (
        f"{load.name}: {codes}; the service's stages, mean ms: {means or 'unknown'};"
        f" {images / runs if runs else 0:.1f} images per run; the model runs"
        f" {shares['the model']:.0%} of the time, this client's CPU"
        f" {load.client_cpu_s / load.wall_s:.0%} ({1000 * load.client_cpu_s / answers:.2f} ms per"
        f" answer): {bound}."
    )
