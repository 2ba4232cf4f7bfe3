"""A rolling update behind the proxy: every process of the service is replaced and no request fails.

python -m benchmarks.rolling_update [REQUESTS_A_SECOND]

Two processes serve version 1 of a tiny model behind a real nginx with the configuration of
deploy/nginx. Clients send requests over TLS at a constant rate; meanwhile version 2 is released,
and one process after the other is stopped with SIGTERM and replaced by a new one on the same port.
Prints the requests, the failures, the answers of each version, and how many requests nginx
passed on to the other process, and why: refused, not ready, or reset.
"""

import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from models.hardware import processor
from models.store import Store
from testkit import tiny_models
from testkit.proxy import Proxy, proxy
from testkit.servers import Server, free_port, serve

DRAIN_S = 3
_CLIENTS = 8
SETTLE_S = 6  # longer than nginx leaves a failed server alone


@dataclass
class Tally:
    """What the clients saw; in lists, as several threads append to them.

    versions: of each answer. passed_on: why each request that went on to the other process did,
    according to nginx's log.
    """

    versions: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    passed_on: list[str] = field(default_factory=list)


def measure(folder: Path, rate: float) -> Tally:
    """One rolling update at `rate` requests per second."""
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
        with load(nginx, rate, tally):
            time.sleep(1)
            store.release("pets", int(tiny_models.add(store.root, "pets", "single").name))
            for number, port in enumerate(ports):
                old[number].close()
                stack.enter_context(process(f"new-{number}", port))
                time.sleep(SETTLE_S)
    tally.passed_on = [reason for entry in nginx.log() if (reason := _reason(entry))]
    return tally


def _reason(entry: dict[str, str]) -> str | None:
    """Why nginx tried a second server; None if it did not."""
    first, _, second = entry["server_status"].partition(", ")
    if not second:
        return None
    if first == "503":
        return "not ready"
    return "refused" if entry["connect_seconds"].startswith("-") else "reset"


@contextmanager
def load(nginx: Proxy, rate: float, tally: Tally) -> Iterator[None]:
    """Clients that send `rate` requests per second in all until the block ends."""
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
    image = tiny_models.picture()
    next_s = time.monotonic()
    with httpx.Client(verify=nginx.trust, timeout=60) as client:
        while not stopped.wait(next_s - time.monotonic()):
            next_s += pause_s
            start_s = time.monotonic()
            try:
                answer = client.post(f"{nginx.url}/classify", content=image)
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
        print(f"{count} times: {failure}")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 150)
