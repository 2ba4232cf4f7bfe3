"""The servers to compare: Labrador and its peers, each started as in its documentation."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import httpx
import psutil

from benchmarks.environment import PEERS, installed
from models.manifest import MODEL_FILE
from models.store import Store
from scripts import drawings
from testkit import tiny_models
from testkit.servers import ROOT, free_port

THREADS = os.cpu_count() or 1
START_S = 90.0
_BOUNDARY = "labrador-benchmark"
_IMAGES = 64


@dataclass(frozen=True)
class Server:
    """A server; `path` takes POST requests, as a form with the part `image` if `form`.

    precision: of Labrador.
    """

    name: str
    path: str
    form: bool
    precision: str = "auto"


LABRADOR = Server("Labrador", "/classify", form=False)
SERVERS = [
    LABRADOR,
    Server("Labrador, fp32", "/classify", form=False, precision="fp32"),
    Server("FastAPI", "/predict", form=True),
    Server("LitServe", "/predict", form=True),
    Server("BentoML's tutorial", "/predict", form=True),
]


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

    def processes(self) -> list[psutil.Process]:
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    def memory_mb(self) -> float:
        """Resident memory of the processes; shared memory counts once."""
        return sum(p.memory_full_info().pss for p in self.processes()) / 2**20

    def cpu_s(self) -> float:
        return sum(map(cpu_s, self.processes()))


def cpu_s(process: psutil.Process) -> float:
    """CPU time so far, user and system."""
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def running(
    server: Server,
    work: Path,
    store: Store,
    bodies: Sequence[bytes],
    extra: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Running]:
    """The server, ready to answer; `extra` is added to its environment."""
    port = free_port()
    environment = {
        **os.environ,
        "MODEL": str(store.path("bench") / MODEL_FILE),
        "THREADS": str(THREADS),
        "LABRADOR_MODEL_STORE": str(store.root),
        "LABRADOR_PRECISION": server.precision,
        "LABRADOR_DRAIN_S": "0",
        "BENTOML_HOME": str(work / "bentoml-home"),
        "BENTOML_DO_NOT_TRACK": "True",
        **extra,
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
                    url + server.path, content=bodies[0], headers=headers_of(server), timeout=10
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
        children: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):  # it has ended by itself
            children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()


def headers_of(server: Server) -> dict[str, str]:
    kind = f"multipart/form-data; boundary={_BOUNDARY}" if server.form else "image/jpeg"
    return {"Content-Type": kind}


def bodies_of(server: Server, images: Sequence[bytes]) -> list[bytes]:
    if not server.form:
        return list(images)
    head = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    return [head.encode() + p + f"\r\n--{_BOUNDARY}--\r\n".encode() for p in images]


def stores(work: Path) -> dict[str, tuple[Store, int]]:
    """The two networks, as bundles named `bench`, and the side of their input in pixels."""
    small, real = Store(work / "tiny"), Store(work / "resnet50")
    if not small.names():
        tiny_models.add(small.root, "bench", "single")
    if not real.names():
        drawings.single_label(work / "drawn", images_per_shape=6, seed=1)
        options = ["--arch", "resnet50", "--weights", "none", "--batch-size", "8"]
        options += ["--freeze-epochs", "0", "--epochs", "1", "--device", "cpu"]
        run = str(work / "run")
        _python("train", str(work / "drawn"), *options, "--out", run)
        _python("export", run, "--name", "bench", "--store", str(real.root), "--precision", "int8")
        shutil.rmtree(work / "run")
    return {"ResNet-50, 224": (real, 224), "tiny network": (small, tiny_models.SIZE_PX)}


def _python(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "training", *arguments], check=True, cwd=ROOT)


def prepare(work: Path) -> None:
    """Create the peers' environments."""
    work.mkdir(parents=True, exist_ok=True)
    for peer in ("fastapi", "litserve", "bentoml"):
        installed(work, peer)


def images_of(folder: Path) -> list[bytes]:
    files = sorted(folder.rglob("*.jpg"))
    files = files[:: max(1, len(files) // _IMAGES)][:_IMAGES]
    return [file.read_bytes() for file in files]
