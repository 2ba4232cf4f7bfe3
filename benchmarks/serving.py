"""Labrador's service against its peers: same network, pictures, machine, threads; in turn.

python -m benchmarks.serving WORK PICTURES [ROUNDS]

WORK gets the peers' environments (pinned in `benchmarks/peers`), the models and the logs; PICTURES
is a folder of JPEGs. Two networks: ResNet-50 at 224 pixels, where ONNX Runtime alone is the limit,
and one that takes the mean colour, so that only the server's own cost is left. Every round (three
by default) starts each server, waits until it answers, warms it up, and measures the highest rate
with 16 clients, the time of one request alone, the 99th percentile at 80 % of the highest rate
(open loop), and the resident memory of its processes. Prints the medians, and Labrador at ten times
its highest rate.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import aiohttp
import httpx
import numpy as np
import onnxruntime
import psutil

from benchmarks.environment import PEERS, installed
from models.manifest import MODEL_FILE
from models.store import Store
from scripts import drawings
from serving.load_test import Load, closed, opened
from tests import tiny
from tests.serving.running import free_port

ROOT = Path(__file__).parents[1]
THREADS = os.cpu_count() or 1
CLIENTS, SECONDS, START_S = 16, 8.0, 90.0
_BOUNDARY = "labrador-benchmark"
_PICTURES = 64


@dataclass(frozen=True)
class Server:
    """A way to serve; `path` takes posts, as a form with the part `image` if `form`."""

    name: str
    path: str
    form: bool


LABRADOR = Server("Labrador", "/classify", form=False)
SERVERS = [
    LABRADOR,
    Server("FastAPI", "/predict", form=True),
    Server("LitServe", "/predict", form=True),
    Server("BentoML's tutorial", "/predict", form=True),
]


@dataclass
class Figures:
    """One list entry a round: answers a second, milliseconds, MB, seconds, share of a core."""

    rate: list[float] = field(default_factory=list)
    alone_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)
    start_s: list[float] = field(default_factory=list)


def command(server: Server, work: Path, port: int) -> list[str]:
    def program(environment: str, name: str) -> str:
        return str(work / environment / "bin" / name)

    if server.name == "FastAPI":
        options = ["--app-dir", str(PEERS), "--port", str(port), "--no-access-log"]
        return [program("fastapi", "uvicorn"), "fastapi_app:app", *options]
    if server.name == "LitServe":
        return [program("litserve", "python"), str(PEERS / "litserve_app.py"), str(port)]
    if server.name.startswith("BentoML"):
        options = ["--working-dir", str(PEERS), "--port", str(port)]
        return [program("bentoml", "bentoml"), "serve", "bentoml_app:Classifier", *options]
    return [sys.executable, "-m", "bentoml", "serve", "--port", str(port)]


@dataclass(frozen=True)
class Running:
    url: str
    process: subprocess.Popen[bytes]
    start_s: float

    def memory_mb(self) -> float:
        """Resident memory of the process and its children; what they share counts once."""
        own = psutil.Process(self.process.pid)
        return sum(p.memory_full_info().pss for p in [own, *own.children(recursive=True)]) / 2**20


@contextmanager
def running(server: Server, work: Path, store: Store, bodies: Sequence[bytes]) -> Iterator[Running]:
    """The server, up and answering."""
    port = free_port()
    environment = {
        **os.environ,
        "MODEL": str(store.path("bench") / MODEL_FILE),
        "THREADS": str(THREADS),
        "LABRADOR_MODEL_STORE": str(store.root),
        "LABRADOR_DRAIN_S": "0",
        "BENTOML_HOME": str(work / "bentoml-home"),
        "BENTOML_DO_NOT_TRACK": "True",
    }
    url = f"http://127.0.0.1:{port}"
    with (work / f"{server.name}.log").open("wb") as log:
        began = time.perf_counter()
        process = subprocess.Popen(
            command(server, work, port), cwd=ROOT, env=environment, stdout=log, stderr=log
        )
    try:
        while True:
            try:
                answer = httpx.post(
                    url + server.path, content=bodies[0], headers=_headers(server), timeout=10
                )
                if answer.status_code == 200:
                    break
            except httpx.TransportError:
                pass
            if process.poll() is not None or time.perf_counter() - began > START_S:
                raise RuntimeError(f"{server.name} does not answer: {work / server.name}.log")
            time.sleep(0.05)
        yield Running(url + server.path, process, time.perf_counter() - began)
    finally:
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
        for child in children:
            if child.is_running():
                child.kill()


def _headers(server: Server) -> dict[str, str]:
    kind = f"multipart/form-data; boundary={_BOUNDARY}" if server.form else "image/jpeg"
    return {"Content-Type": kind}


def _bodies(server: Server, pictures: Sequence[bytes]) -> list[bytes]:
    if not server.form:
        return list(pictures)
    head = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    return [head.encode() + p + f"\r\n--{_BOUNDARY}--\r\n".encode() for p in pictures]


async def measure(server: Server, at: Running, bodies: Sequence[bytes], figures: Figures) -> float:
    """Fill in the figures; the share of a core that this client needed at the highest rate."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), headers=_headers(server)
    ) as http:
        await closed(http, at.url, bodies, 4, 2.0, Load("warm-up"))
        alone = Load("alone")
        await closed(http, at.url, bodies, 1, SECONDS / 2, alone)
        highest, cpu_s, began = Load("highest"), time.process_time(), time.perf_counter()
        await closed(http, at.url, bodies, CLIENTS, SECONDS, highest)
        wall_s = time.perf_counter() - began
        client = (time.process_time() - cpu_s) / wall_s
        rate = len(highest.times) / wall_s
        most = Load("80 %")
        await opened(http, at.url, bodies, 0.8 * rate, SECONDS, most)
    if lost := [code for load in (alone, highest, most) for code in load.codes if code != "200"]:
        print(f"{server.name} also answered {', '.join(sorted(set(lost)))}", file=sys.stderr)
    figures.rate.append(rate)
    figures.alone_ms.append(1000 * median(alone.times))
    figures.p99_ms.append(1000 * float(np.quantile(most.times, 0.99)) if most.times else np.nan)
    figures.memory_mb.append(at.memory_mb())
    figures.start_s.append(at.start_s)
    return client


async def overload(at: Running, bodies: Sequence[bytes], rate: float) -> str:
    """Ten times the highest rate: what is still answered, and how fast the rest is refused."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), headers=_headers(LABRADOR)
    ) as http:
        load, began = Load("overload"), time.perf_counter()
        await opened(http, at.url, bodies, 10 * rate, SECONDS, load)
        wall_s = time.perf_counter() - began
    p50, p99 = 1000 * np.quantile(load.shed_times or [np.nan], [0.5, 0.99])
    return (
        f"At ten times that: {len(load.times) / wall_s / rate:.2f} of the highest rate is answered"
        f" (goal 0.95); {len(load.shed_times)} refused in {p50:.0f} ms, 99 % within {p99:.0f} ms"
        f" (goal 20); {dict(load.codes)}"
    )


def limit(model: Path, side_px: int) -> float:
    """Images a second of ONNX Runtime alone, at its best batch."""
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


def stores(work: Path) -> dict[str, tuple[Store, int]]:
    """The two networks, as bundles called `bench`, and the side of their input."""
    small, real = Store(work / "tiny"), Store(work / "resnet50")
    if not small.names():
        tiny.add(small.root, "bench", "single")
    if not real.names():
        drawings.single_label(work / "drawn", images_per_shape=6, seed=1)
        options = ["--arch", "resnet50", "--weights", "none", "--batch-size", "8"]
        options += ["--freeze-epochs", "0", "--epochs", "1", "--device", "cpu"]
        run = str(work / "run")
        _python("train", str(work / "drawn"), *options, "--out", run)
        _python("export", run, "--name", "bench", "--store", str(real.root))
        shutil.rmtree(work / "run")
    return {"ResNet-50, 224": (real, 224), "tiny network": (small, tiny.SIZE_PX)}


def _python(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "training", *arguments], check=True, cwd=ROOT)


def table(name: str, found: dict[str, Figures], limits: Sequence[float]) -> str:
    heads = [name, "answers/s", "to ONNX Runtime alone", "to FastAPI", "alone, ms"]
    heads += ["p99 at 80 %, ms", "p99 / alone", "MB", "start, s"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    lines.append(f"| ONNX Runtime alone | {median(limits):.0f} | 1.00 |{' |' * 6}")
    for server, own in found.items():
        to_limit = median(a / b for a, b in zip(own.rate, limits, strict=True))
        to_peer = median(a / b for a, b in zip(own.rate, found["FastAPI"].rate, strict=True))
        tail = median(a / b for a, b in zip(own.p99_ms, own.alone_ms, strict=True))
        cells = [server, f"{median(own.rate):.0f}", f"{to_limit:.2f}", f"{to_peer:.2f}"]
        cells += [f"{median(own.alone_ms):.1f}", f"{median(own.p99_ms):.1f}", f"{tail:.1f}"]
        cells += [f"{median(own.memory_mb):.0f}", f"{median(own.start_s):.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(work: Path, folder: Path, rounds: int) -> None:
    work.mkdir(parents=True, exist_ok=True)
    for peer in ("fastapi", "litserve", "bentoml"):
        installed(work, peer)
    files = sorted(folder.rglob("*.jpg"))
    files = files[:: max(1, len(files) // _PICTURES)][:_PICTURES]
    pictures = [file.read_bytes() for file in files]
    size_kib = np.mean([len(p) for p in pictures]) / 1024
    print(f"{len(pictures)} pictures of {size_kib:.0f} KiB; {THREADS} cores; {rounds} rounds\n")
    for name, (store, side_px) in stores(work).items():
        found = {server.name: Figures() for server in SERVERS}
        limits: list[float] = []
        clients: list[float] = []
        last = ""
        for _ in range(rounds):
            limits.append(limit(store.path("bench") / MODEL_FILE, side_px))
            for server in SERVERS:
                bodies = _bodies(server, pictures)
                with running(server, work, store, bodies) as at:
                    own = found[server.name]
                    clients.append(asyncio.run(measure(server, at, bodies, own)))
                    if server is LABRADOR:
                        last = asyncio.run(overload(at, bodies, own.rate[-1]))
        print(table(name, found, limits))
        print(f"\n{last}\nThe client took {median(clients):.0%} of a core.\n", flush=True)


if __name__ == "__main__":
    main(
        Path(sys.argv[1]).absolute(),
        Path(sys.argv[2]),
        int(sys.argv[3]) if len(sys.argv) > 3 else 3,
    )
