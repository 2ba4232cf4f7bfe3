"""Versions swapped under load: no request fails, and each answer comes from exactly one version.

python -m benchmarks.swap [SWAPS]

Serves a tiny model with `RELOAD_S`, moves RELEASED back and forth between two versions whose
answers differ, and asks all the time. Prints the swaps that the service counted, how many requests
failed and how many answers had the probabilities of another version than they named.
"""

import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from models.hardware import processor
from models.manifest import Preprocess
from models.preprocess import decode
from models.store import Store
from tests import tiny
from tests.serving.running import Server, serve

_CLIENTS = 3
_WITHIN_S = 30
_WEIGHTS = {1: tiny.WEIGHTS, 2: tiny.WEIGHTS * 0.5}


@dataclass
class Tally:
    """What the clients saw; lists, as several threads add to them.

    versions: of each answer; mixed: of those whose probabilities are another version's.
    """

    swaps: int = 0
    versions: list[int] = field(default_factory=list)
    mixed: list[int] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def measure(folder: Path, swaps: int) -> Tally:
    """Swap so often, in a server that keeps its files in `folder`."""
    store = Store(folder / "store")
    for weights in _WEIGHTS.values():
        tiny.add(store.root, "pets", "single", weights=weights)
    tally = Tally()
    with serve(folder, model_store=store.root, reload_s=0.02) as server:
        stopped = threading.Event()
        clients = [
            threading.Thread(target=_ask, args=(server, stopped, tally)) for _ in range(_CLIENTS)
        ]
        for client in clients:
            client.start()
        try:
            for number in range(swaps):
                store.release("pets", 2 - number % 2)
                _wait_for(server, number + 1)
        finally:
            stopped.set()
            for client in clients:
                client.join()
        tally.swaps = int(server.metric(_series("swapped")))
        failed = server.metric(_series("failed"))
        if failed:
            tally.failures.append(f"{failed:.0f} swaps failed")
    return tally


def _ask(server: Server, stopped: threading.Event, tally: Tally) -> None:
    picture = tiny.picture((180, 90, 60))
    pixels = decode(picture, Preprocess(image_size_px=tiny.SIZE_PX, crop_fraction=0.9))
    expected = {
        version: float(tiny.reference_scores(pixels[None], "single", weights).max())
        for version, weights in _WEIGHTS.items()
    }
    with httpx.Client(timeout=10) as client:
        while not stopped.is_set():
            try:
                answer = client.post(f"{server.url}/classify", content=picture)
                answer.raise_for_status()
            except httpx.HTTPError as error:
                tally.failures.append(repr(error))
                continue
            body = answer.json()
            version = int(body["model"]["version"])
            tally.versions.append(version)
            if abs(body["predictions"][0]["probability"] - expected[version]) > 1e-3:
                tally.mixed.append(version)


def _wait_for(server: Server, swaps: int) -> None:
    end_s = time.monotonic() + _WITHIN_S
    while server.metric(_series("swapped")) < swaps:
        if time.monotonic() > end_s:
            raise TimeoutError(f"swap {swaps} did not come; log: {server.log()}")
        time.sleep(0.01)


def _series(result: str) -> str:
    return f'labrador_reload_total{{model="pets",result="{result}"}}'


def main(swaps: int) -> None:
    print(f"{processor()}\n")
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        tally = measure(Path(folder), swaps)
        seconds = time.perf_counter() - began
    print(
        f"{tally.swaps} swaps in {seconds:.0f} s; {len(tally.versions)} answers, of which"
        f" {len(tally.mixed)} of mixed versions; {len(tally.failures)} failures"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000)
