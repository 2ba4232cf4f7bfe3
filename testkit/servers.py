"""A real `bentoml serve` of this repository, for end-to-end tests."""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[1]
START_S = 60
STOP_S = 30
# Over plain HTTP; with `verify` each call would load all CA certificates: 27 ms of CPU.
get, post = partial(httpx.get, verify=False), partial(httpx.post, verify=False)


@dataclass(frozen=True)
class Server:
    url: str
    port: int
    process: subprocess.Popen[bytes]
    log_file: Path

    def worker(self) -> int:
        """The process id of its first worker."""
        return self.workers()[0]

    def workers(self) -> list[int]:
        pid = self.process.pid
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]

    def log(self) -> str:
        return self.log_file.read_text()

    def metric(self, series: str) -> float:
        return metric(self.url, series)


def metric(url: str, series: str) -> float:
    """The sum of all series of /metrics with this name and at least these labels; 0 for none."""
    name, labels = _series(series)
    total = 0.0
    for line in get(f"{url}/metrics").text.splitlines():
        if line.startswith(name):
            found, _, value = line.rpartition(" ")
            if (given := _series(found))[0] == name and labels <= given[1]:
                total += float(value)
    return total


def _series(text: str) -> tuple[str, set[str]]:
    """A series' name and its labels, each with its value."""
    name, _, labels = text.partition("{")
    return name, set(re.findall(r'\w+="[^"]*"', labels))


def command(
    folder: Path, port: int, service: str = ".", **settings: object
) -> tuple[list[str], dict[str, str]]:
    """The command line and the environment of a server that keeps its files in `folder`."""
    environment = {name: v for name, v in os.environ.items() if not name.startswith("LABRADOR_")}
    environment |= {f"LABRADOR_{name.upper()}": str(value) for name, value in settings.items()}
    environment |= {"BENTOML_HOME": str(folder / "bentoml"), "TMPDIR": str(folder)}
    script = [sys.executable, "-m", "bentoml", "serve", service, "--port", str(port)]
    return script, environment


def free_port() -> int:
    """Below the range from which the kernel assigns ports, so nobody takes it meanwhile."""
    for port in random.sample(range(15_000, 32_000), 100):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("100 ports are taken")


@contextmanager
def serve(
    folder: Path,
    ready: bool = True,
    workers: int = 1,
    port: int | None = None,
    service: str = ".",
    inside: Sequence[str] = (),
    root: Path = ROOT,
    **settings: object,
) -> Iterator[Server]:
    """A server with these settings, running in the context; `ready`: wait until it is ready.

    service: as `bentoml serve` takes it; default: the one of bentofile.yaml. inside: the beginning
    of a command line that executes the rest of it. root: the checkout whose server it is.
    """
    port = port or free_port()
    script, environment = command(folder, port, service, **{"drain_s": 0, **settings})
    environment["BENTOML_CONFIG_OPTIONS"] = f"services.labrador.workers={workers}"
    log_file = folder / "server.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [*inside, *script], cwd=root, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    server = Server(f"http://127.0.0.1:{port}", port, process, log_file)
    try:
        wait(server, "readyz" if ready else "livez")
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def wait(server: Server, probe: str) -> None:
    """Wait until the probe answers 200."""
    answer = "nothing"
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s and server.process.poll() is None:
        try:
            response = get(f"{server.url}/{probe}")
        except httpx.TransportError:
            pass
        else:
            if response.status_code == 200:
                return
            answer = response.text
        time.sleep(0.1)
    raise AssertionError(f"/{probe} says {answer}; log: {server.log()}")
