"""Versions swapped under load: no request fails, and each answer comes from exactly one version.

python -m benchmarks.swap [SWAPS]

Serves a tiny model with `RELOAD_S`, moves RELEASED back and forth between two versions whose
probabilities differ, and sends requests all the time. Prints the swaps that the service counted,
how many requests failed, and how many answers had the probabilities of another version than the
one they named.
"""

import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from models.hardware import processor
from models.manifest import Preprocess
from models.preprocess import decode
from models.store import Store
from testkit import tiny_models
from testkit.servers import metric, serve

_CLIENTS = 3
_WITHIN_S = 30
_WEIGHTS = {1: tiny_models.WEIGHTS, 2: tiny_models.WEIGHTS * 0.5}


@dataclass
class Tally:
    """What the clients saw; in lists, as several threads append to them.

    versions: of each answer; mixed: of those whose probabilities are another version's.
    """

    swaps: int = 0
    versions: list[int] = field(default_factory=list)
    mixed: list[int] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def fill(root: Path) -> Store:
    """A store with both versions; the first is released."""
    for weights in _WEIGHTS.values():
        tiny_models.add(root, "pets", "single", weights=weights)
    return Store(root)


def measure(url: str, store: Store, swaps: int) -> Tally:
    """Swap this many times, in a server with one worker that follows the store.

    Before each swap, and after the last, the current version has answered some requests.
    """
    before = metric(url, _series("swapped"))

    def swapped() -> int:
        return int(metric(url, _series("swapped")) - before)

    def answered() -> int:
        return len(tally.versions) + len(tally.failures)

    tally = Tally()
    stopped = threading.Event()
    clients = [threading.Thread(target=_ask, args=(url, stopped, tally)) for _ in range(_CLIENTS)]
    for client in clients:
        client.start()
    try:
        for number in range(swaps + 1):
            if number:
                store.release("pets", 1 + number % 2)
            _wait_for(swapped, number)
            # each client's first answer from now on may still come from the previous version
            _wait_for(answered, answered() + 2 * _CLIENTS)
    finally:
        stopped.set()
        for client in clients:
            client.join()
    tally.swaps = swapped()
    failed = metric(url, _series("failed"))
    if failed:
        tally.failures.append(f"{failed:.0f} swaps failed")
    return tally


def _ask(url: str, stopped: threading.Event, tally: Tally) -> None:
    image = tiny_models.picture((180, 90, 60))
    pixels = decode(image, Preprocess(image_size_px=tiny_models.SIZE_PX, crop_fraction=0.9))
    expected = {
        version: float(tiny_models.reference_scores(pixels[None], "single", weights).max())
        for version, weights in _WEIGHTS.items()
    }
    with httpx.Client(timeout=10) as client:
        while not stopped.is_set():
            try:
                answer = client.post(f"{url}/classify", content=image)
                answer.raise_for_status()
            except httpx.HTTPError as error:
                tally.failures.append(repr(error))
                continue
            body = answer.json()
            version = int(body["model"]["version"])
            tally.versions.append(version)
            if abs(body["predictions"][0]["probability"] - expected[version]) > 1e-3:
                tally.mixed.append(version)


def _wait_for(count: Callable[[], int], least: int) -> None:
    end_s = time.monotonic() + _WITHIN_S
    while count() < least:
        if time.monotonic() > end_s:
            raise TimeoutError(f"only {count()} of {least} swaps or answers came")
        time.sleep(0.01)


def _series(result: str) -> str:
    return f'labrador_reload_total{{model="pets",result="{result}"}}'


def main(swaps: int) -> None:
    print(f"{processor()}\n")
    with tempfile.TemporaryDirectory() as folder:
        store = fill(Path(folder) / "store")
        with serve(Path(folder), model_store=store.root, reload_s=0.02) as server:
            began = time.perf_counter()
            tally = measure(server.url, store, swaps)
            seconds = time.perf_counter() - began
    print(
        f"{tally.swaps} swaps in {seconds:.0f} s; {len(tally.versions)} answers, of which"
        f" {len(tally.mixed)} mix versions; {len(tally.failures)} failures"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000)
