"""How many workers a GPU needs, and what it costs that each has its own batches.

python -m benchmarks.feeding WORK IMAGES [ROUNDS]

The real service with a stand-in for the GPU (`benchmarks/stand_in.py`); IMAGES: a folder of JPEGs.
First a GPU that is never the limit: answers per second, and the CPU time of an answer in the thread
that runs Python's event loop and in all others. A process can't use more than one core for the
former: so this says where it bends, and how many workers fill so many cores. Then a GPU so slow
that the cores are never the limit, with more and more workers that share it: what one process that
had all the batches could gain is what they lose.
"""

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import aiohttp
import psutil

from benchmarks.servers import images_of
from models.hardware import processor
from serving.bench import Load, closed
from testkit import tiny_models
from testkit.servers import Server, serve

SECONDS = 8.0
GPU_IMAGES_S = 6_000
# a ResNet-50 in fp16: a full batch at 6,000 images a second, a quarter of it whatever the batch
SHARE_FIXED, BATCH = 0.25, 32
SLOWED = 100


def stand_in(folder: Path, images_s: float) -> dict[str, str]:
    """The environment of a GPU that runs so many images a second in full batches."""
    full_s = BATCH / images_s
    return {
        "STAND_IN_LOCK": str(folder / "lock"),
        "STAND_IN_BATCH_S": str(SHARE_FIXED * full_s),
        "STAND_IN_IMAGE_S": str((1 - SHARE_FIXED) * full_s / BATCH),
    }


def load(server: Server, bodies: Sequence[bytes], clients: int, seconds: float) -> Load:
    async def run() -> Load:
        found = Load(f"{clients} clients")
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as http:
            await closed(http, f"{server.url}/classify", bodies, clients, seconds, found)
        return found

    return asyncio.run(run())


def thread_s(server: Server) -> tuple[float, float]:
    """CPU seconds of the workers' main threads, which run the event loop, and of all others."""
    main = others = 0.0
    for pid in server.workers():
        for thread in psutil.Process(pid).threads():
            used_s = thread.user_time + thread.system_time
            main, others = (main + used_s, others) if thread.id == pid else (main, others + used_s)
    return main, others


def starting(folder: Path, images_s: float) -> dict[str, object]:
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "store").exists():
        tiny_models.add(folder / "store", "bench", "single")
    os.environ.update(stand_in(folder, images_s))
    return {"service": "benchmarks.stand_in:Labrador", "model_store": folder / "store"}


def print_bend(folder: Path, bodies: Sequence[bytes], rounds: int) -> None:
    print("| workers | answers/s | event loop, ms per answer | other threads, ms | cores used |")
    print("|---|---|---|---|---|")
    for workers in (1, 2):
        rows = []
        for _ in range(rounds):
            with serve(folder, workers=workers, **starting(folder, GPU_IMAGES_S)) as server:  # type: ignore[arg-type]
                load(server, bodies, 64, 2)
                before = thread_s(server)
                found = load(server, bodies, 64, SECONDS)
                main_s, others_s = (b - a for a, b in zip(before, thread_s(server), strict=True))
            answers = len(found.times)
            cores = (main_s + others_s) / SECONDS
            rows.append(
                (answers / SECONDS, main_s / answers * 1e3, others_s / answers * 1e3, cores)
            )
        rate, main_ms, others_ms, cores = (median(column) for column in zip(*rows, strict=True))
        print(
            f"| {workers} | {rate:,.0f} | {main_ms:.2f} | {others_ms:.2f} | {cores:.2f} |",
            flush=True,
        )


def print_sharing(folder: Path, bodies: Sequence[bytes], rounds: int) -> None:
    slow = GPU_IMAGES_S / SLOWED
    print(f"\n| clients | answers/s of one worker, GPU of {slow:g} images/s | of two | of four |")
    print("|---|---|---|---|")
    rates: dict[tuple[int, int], list[float]] = {}
    counts = (16, 32, 64, 128)
    for _ in range(rounds):
        for workers in (1, 2, 4):
            with serve(folder, workers=workers, **starting(folder, slow)) as server:  # type: ignore[arg-type]
                load(server, bodies, 64, 1)
                for clients in counts:
                    found = load(server, bodies, clients, SECONDS)
                    rates.setdefault((clients, workers), []).append(len(found.times) / SECONDS)
    for clients in counts:
        one, two, four = (median(rates[clients, workers]) for workers in (1, 2, 4))
        print(f"| {clients} | {one:.0f} | {two / one:.2f} of it | {four / one:.2f} of it |")


def main(work: Path, images: Path, rounds: int) -> None:
    print(f"{processor()}\n")
    bodies = images_of(images)
    print_bend(work, bodies, rounds)
    print_sharing(work, bodies, rounds)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 3)
