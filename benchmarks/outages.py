"""Servers killed under load behind the proxy: no request fails.

python -m benchmarks.outages [KILLS [REQUESTS_A_SECOND]]

Two processes serve a tiny model behind a real nginx with the configuration of deploy/nginx. KILLS
times a worker gets SIGKILL, and BentoML starts another; then KILLS times a process gets SIGTERM and
is replaced by a new one on the same port; each time the other process serves alone until nginx uses
the new one again.
Prints the requests and the failures of both parts.
"""

import os
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import httpx

from benchmarks.rolling_update import SETTLE_S, Tally, load
from models.hardware import processor
from models.store import Store
from testkit import tiny_models
from testkit.proxy import proxy
from testkit.servers import Server, free_port, get, serve
from testkit.waiting import until

_DRAIN_S = 1


def measure(folder: Path, kills: int, rate: float) -> tuple[Tally, Tally]:
    """What clients saw while workers were killed, and while processes were replaced."""
    store = Store(folder / "store")
    tiny_models.add(store.root, "pets", "single")
    killed, replaced = Tally(), Tally()
    with ExitStack() as stack:
        ports = [free_port(), free_port()]
        running = [stack.enter_context(ExitStack()) for _ in ports]

        def start(number: int, name: str) -> Server:
            place = folder / name
            place.mkdir()
            return running[number].enter_context(
                serve(place, port=ports[number], model_store=store.root, drain_s=_DRAIN_S)
            )

        servers = [start(number, f"first-{number}") for number in range(2)]
        nginx = stack.enter_context(proxy(folder, ports))
        with load(nginx, rate, killed):
            for turn in range(kills):
                server = servers[turn % 2]
                worker = server.worker()
                os.kill(worker, signal.SIGKILL)
                until(lambda: worker not in server.workers())  # noqa: B023
                until(lambda: _is_ready(server))  # noqa: B023
                time.sleep(SETTLE_S)
        with load(nginx, rate, replaced):
            for turn in range(kills):
                running[turn % 2].close()
                start(turn % 2, f"next-{turn}")
                time.sleep(SETTLE_S)
    return killed, replaced


def _is_ready(server: Server) -> bool:
    try:
        return get(f"{server.url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def main(kills: int, rate: float) -> int:
    print(f"{processor()}\n")
    with tempfile.TemporaryDirectory() as folder:
        tallies = measure(Path(folder), kills, rate)
    for name, tally in zip(("SIGKILL of a worker", "SIGTERM of a process"), tallies, strict=True):
        print(
            f"{kills} times {name}: {len(tally.versions) + len(tally.failures)} requests,"
            f" {len(tally.failures)} failed; slowest {max(tally.seconds):.1f} s"
        )
        for failure, count in Counter(tally.failures).most_common(5):
            print(f"  {count} times: {failure}")
    return 1 if any(tally.failures for tally in tallies) else 0


if __name__ == "__main__":
    words = sys.argv[1:]
    sys.exit(main(int(words[0]) if words else 50, float(words[1]) if len(words) > 1 else 50))
