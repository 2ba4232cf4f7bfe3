"""A rolling update behind the proxy: every process of the service is replaced, no request fails.

python -m benchmarks.rolling_update [REQUESTS_A_SECOND]

Two processes serve version 1 of a tiny model behind a real nginx with the configuration of
deploy/nginx. Clients ask over TLS at a constant rate; meanwhile version 2 is released, and one
process after the other is stopped with SIGTERM and replaced by a new one on the same port. Prints
the requests, those that failed, the answers of each version, and how many requests nginx passed on
to the other process, and why: refused, not ready, or reset.
"""

import json
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from models.hardware import processor
from models.store import Store
from testkit import tiny_models
from testkit.servers import ROOT, START_S, STOP_S, Server, free_port, serve

CONFIGURATION = ROOT / "deploy" / "nginx"
DRAIN_S = 3
_CLIENTS = 8
_SETTLE_S = 6  # longer than nginx leaves a failed server alone


@dataclass(frozen=True)
class Proxy:
    url: str
    port: int
    trust: ssl.SSLContext
    log_file: Path

    def log(self) -> list[dict[str, str]]:
        """One entry a request, as `log_format` words it."""
        return [json.loads(line) for line in self.log_file.read_text().splitlines()]


@dataclass
class Tally:
    """What the clients saw; lists, as several threads add to them.

    versions: of each answer. passed_on: why each request went to the other process as well, by
    nginx's log.
    """

    versions: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    passed_on: list[str] = field(default_factory=list)


def configure(folder: Path, servers: Sequence[int]) -> tuple[list[str], int]:
    """Fill in the configuration for servers at these ports: nginx's command, and its own port."""
    configuration = folder / "nginx"
    shutil.copytree(CONFIGURATION, configuration)
    port = free_port()
    (configuration / "listen.conf").write_text(f"listen 127.0.0.1:{port} ssl;\n")
    list_file = configuration / "servers.conf"
    (options,) = set(re.findall(r"^server \S+ (.*;)$", list_file.read_text(), re.MULTILINE))
    list_file.write_text("".join(f"server 127.0.0.1:{server} {options}\n" for server in servers))
    (configuration / "tls").mkdir()
    certificate = ["openssl", "req", "-x509", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    certificate += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    certificate += ["-addext", "subjectAltName=IP:127.0.0.1"]
    certificate += ["-keyout", str(configuration / "tls" / "key.pem")]
    certificate += ["-out", str(configuration / "tls" / "certificate.pem")]
    subprocess.run(certificate, check=True, capture_output=True)
    # its processes stay this user's, because only that one may write to a test's folder
    script = ["nginx", "-p", str(folder), "-c", str(configuration / "nginx.conf")]
    return [*script, "-g", "daemon off; user root;"], port


@contextmanager
def proxy(folder: Path, servers: Sequence[int]) -> Iterator[Proxy]:
    """nginx in front of the service at these ports, with its files in `folder`."""
    script, port = configure(folder, servers)
    trust = ssl.create_default_context(cafile=folder / "nginx" / "tls" / "certificate.pem")
    with (folder / "nginx.log").open("wb") as log:
        process = subprocess.Popen(script, stdout=log, stderr=log)
    try:
        _wait_until_open(port, process)
        yield Proxy(f"https://127.0.0.1:{port}", port, trust, folder / "access.log")
    finally:
        process.send_signal(signal.SIGQUIT)
        process.wait(STOP_S)


def _wait_until_open(port: int, process: subprocess.Popen[bytes]) -> None:
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s and process.poll() is None:
        with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise AssertionError("nginx did not start; nginx.log says why")


def measure(folder: Path, rate: float) -> Tally:
    """One rolling update at `rate` requests a second."""
    store = Store(folder / "store")
    tiny_models.add(store.root, "pets", "single")
    tally = Tally()

    def process(name: str, port: int) -> AbstractContextManager[Server]:
        (folder / name).mkdir()
        return serve(folder / name, port=port, model_store=store.root, drain_s=DRAIN_S)

    with ExitStack() as stack:
        ports = [free_port(), free_port()]
        old = [ExitStack(), ExitStack()]
        for number, port in enumerate(ports):
            stack.enter_context(old[number])
            old[number].enter_context(process(f"old-{number}", port))
        nginx = stack.enter_context(proxy(folder, ports))
        with _load(nginx, rate, tally):
            time.sleep(1)
            store.release("pets", int(tiny_models.add(store.root, "pets", "single").name))
            for number, port in enumerate(ports):
                old[number].close()
                stack.enter_context(process(f"new-{number}", port))
                time.sleep(_SETTLE_S)
    tally.passed_on = [reason for entry in nginx.log() if (reason := _reason(entry))]
    return tally


def _reason(entry: dict[str, str]) -> str | None:
    """Why nginx asked a second server; None if it did not."""
    first, _, second = entry["server_status"].partition(", ")
    if not second:
        return None
    if first == "503":
        return "not ready"
    return "refused" if entry["connect_seconds"].startswith("-") else "reset"


@contextmanager
def _load(nginx: Proxy, rate: float, tally: Tally) -> Iterator[None]:
    """Clients that ask at `rate` in all until the block ends."""
    stopped = threading.Event()
    pause_s = _CLIENTS / rate
    clients = [
        threading.Thread(target=_ask, args=(nginx, pause_s, stopped, tally))
        for _ in range(_CLIENTS)
    ]
    for client in clients:
        client.start()
    try:
        yield
    finally:
        stopped.set()
        for client in clients:
            client.join()


def _ask(nginx: Proxy, pause_s: float, stopped: threading.Event, tally: Tally) -> None:
    picture = tiny_models.picture()
    next_s = time.monotonic()
    with httpx.Client(verify=nginx.trust, timeout=60) as client:
        while not stopped.wait(next_s - time.monotonic()):
            next_s += pause_s
            start_s = time.monotonic()
            try:
                answer = client.post(f"{nginx.url}/classify", content=picture)
                answer.raise_for_status()
            except httpx.HTTPError as error:
                tally.failures.append(repr(error))
                continue
            tally.seconds.append(time.monotonic() - start_s)
            tally.versions.append(int(answer.json()["model"]["version"]))


def main(rate: float) -> None:
    print(f"{processor()}\n")
    with tempfile.TemporaryDirectory() as folder:
        tally = measure(Path(folder), rate)
    counts = Counter(tally.versions)
    answers = ", ".join(f"{counts[version]} by version {version}" for version in sorted(counts))
    print(
        f"{len(tally.versions) + len(tally.failures)} requests, {len(tally.failures)} failed;"
        f" answered: {answers}; slowest {max(tally.seconds):.1f} s;"
        f" passed on: {dict(Counter(tally.passed_on))}"
    )
    for failure, count in Counter(tally.failures).most_common():
        print(f"{count} times {failure}")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 150)
