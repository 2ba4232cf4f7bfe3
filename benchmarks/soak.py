"""Long days: mixed load for an hour, and what the server holds on to meanwhile.

python -m benchmarks.soak [MINUTES [IMAGES]]

Serves a tiny model while clients send good images, text, bodies that are too large, images that
lie about their size, mutants of real files, several images at once, drips of bytes, and connections
that break off; a version is swapped once a minute and /metrics scraped every five seconds. IMAGES:
a folder with real files for the mutants (default: drawn ones). Prints the worker's memory, open
files, threads and series over time, and every answer that was not the one expected.
"""

import io
import random
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, pairwise
from pathlib import Path

import httpx
import psutil
from PIL import Image

from benchmarks import swap
from models.hardware import processor
from models.store import Store
from testkit import tiny_models
from testkit.odd_images import png
from testkit.servers import Server, get, serve

PAUSE_S = 0.05  # of each client, between two requests
SCRAPE_S = 5.0
SWAP_S = 60.0
FLAT = 1.15  # largest median of a later tenth over that of the second
MUTANT_STATUSES = {200, 400, 415, 422}  # none is the server's fault
_FORMATS = ("JPEG", "PNG", "WEBP")
_MORE_S = 60


@dataclass
class Soak:
    """What was seen. samples: (seconds, MB, open files, threads, series) at each scrape; swaps: as
    the server counted them by the last one.
    """

    samples: list[tuple[float, float, int, int, int]] = field(default_factory=list)
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    unexpected: list[str] = field(default_factory=list)
    swaps: int = 0

    def tenths(self) -> list[tuple[float, ...]]:
        """The medians of the samples' columns in ten parts of the time."""
        cuts = [len(self.samples) * n // 10 for n in range(11)]
        parts = [self.samples[start:end] for start, end in pairwise(cuts) if start < end]
        return [tuple(map(statistics.median, zip(*part, strict=True))) for part in parts]

    def growing(self) -> list[str]:
        """The columns that are not flat after the first tenth, which warms up."""
        tenths = self.tenths()[1:]
        names = ("seconds", "MB", "open files", "threads", "series")
        return [
            f"{name}: {before:g} -> {max(later):g}"
            for name, before, later in (
                (name, column[0], column[1:])
                for name, column in zip(names, zip(*tenths, strict=True), strict=True)
                if name != "seconds"
            )
            if later and max(later) > FLAT * before
        ]


def measure(
    folder: Path,
    seconds: float,
    files: Sequence[bytes],
    pause_s: float = PAUSE_S,
    enough: Callable[[Soak], bool] = lambda _: True,
) -> Soak:
    """Serve from `folder` under mixed load for so long, and then until there is `enough`, but at
    most a minute more. files: what mutants are made of.
    """
    soak = Soak()
    store = swap.fill(folder / "store")
    reload_s = min(1, seconds / 20)
    with serve(folder, model_store=store.root, reload_s=reload_s, read_timeout_s=2) as server:
        with _clients(server, files, pause_s, soak), _swapping(store, min(SWAP_S, seconds / 4)):
            _scrape(server, seconds, soak, enough)
        if server.process.poll() is not None:
            soak.unexpected.append(f"the server ended: {server.log()[-500:]}")
    return soak


def mutant(data: bytes, chance: random.Random) -> bytes:
    """The file with some bytes changed, cut off, doubled or left out."""
    mutated = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        place = chance.randrange(len(mutated) or 1)
        match chance.randrange(5):
            case 0:
                mutated[place : place + 1] = chance.randbytes(1)
            case 1:
                del mutated[place : place + chance.randrange(1, 64)]
            case 2:
                mutated[place:place] = mutated[place : place + chance.randrange(1, 64)]
            case 3:
                mutated[place : place + 4] = chance.choice(
                    (b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff")
                )
            case _ if chance.random() < 0.2:
                del mutated[place:]
    return bytes(mutated)


@contextmanager
def _clients(server: Server, files: Sequence[bytes], pause_s: float, soak: Soak) -> Iterator[None]:
    """One client of each kind, until the block ends."""
    image = tiny_models.picture((180, 90, 60))
    claims = png(30_000, 30_000, 8, 2, b"")
    chance = random.Random(0)
    fine, busy = {200}, {200, 429}
    kinds: dict[str, tuple[Callable[[httpx.Client], int], set[int]]] = {
        "good": (_body(server, lambda: image), fine),
        "text": (_body(server, lambda: b"no image"), {422}),
        "too large": (_body(server, lambda: bytes(11 * 2**20)), {413}),
        "lying header": (_body(server, lambda: claims), {422}),
        "mutant": (_body(server, lambda: mutant(chance.choice(files), chance)), MUTANT_STATUSES),
        "several": (_several(server, [image, b"text", image]), fine),
        "slow": (lambda _: _drip(server, image, pause_s), busy | {408}),
        "leaving": (lambda _: _leave(server, image), {0}),
    }
    stopped = threading.Event()

    def ask(kind: str) -> None:
        request, expected = kinds[kind]
        with httpx.Client(timeout=60) as client:
            while not stopped.wait(pause_s):
                try:
                    code = request(client)
                except (httpx.HTTPError, OSError) as error:
                    soak.unexpected.append(f"{kind}: {error!r}")
                    continue
                soak.answers[kind, code] += 1
                if code not in expected:
                    soak.unexpected.append(f"{kind}: {code}")

    threads = [threading.Thread(target=ask, args=(kind,)) for kind in kinds]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


def _body(server: Server, make: Callable[[], bytes]) -> Callable[[httpx.Client], int]:
    return lambda client: client.post(f"{server.url}/classify", content=make()).status_code


def _several(server: Server, images: Sequence[bytes]) -> Callable[[httpx.Client], int]:
    parts = [("image", image) for image in images]
    return lambda client: client.post(f"{server.url}/classify", files=parts).status_code


def _head(length: int) -> bytes:
    return f"POST /classify HTTP/1.1\r\nHost: soak\r\nContent-Length: {length}\r\n\r\n".encode()


def _drip(server: Server, image: bytes, pause_s: float) -> int:
    """A body in 20 pieces; the status of its answer."""
    step = -(-len(image) // 20)
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
        client.sendall(_head(len(image)))
        for place in range(0, len(image), step):
            client.sendall(image[place : place + step])
            time.sleep(pause_s / 10)
        return int(client.recv(65536).split()[1])


def _leave(server: Server, image: bytes) -> int:
    """Half a body, and gone."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as client:
        client.sendall(_head(len(image)) + image[: len(image) // 2])
    return 0


@contextmanager
def _swapping(store: Store, every_s: float) -> Iterator[None]:
    stopped = threading.Event()

    def swap_regularly() -> None:
        for version in cycle((2, 1)):
            if stopped.wait(every_s):
                return
            store.release("pets", version)

    thread = threading.Thread(target=swap_regularly)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def _scrape(server: Server, seconds: float, soak: Soak, enough: Callable[[Soak], bool]) -> None:
    """Sample the worker at each scrape."""
    worker = psutil.Process(server.worker())
    began = time.monotonic()
    while (elapsed := time.monotonic() - began) < seconds or (
        elapsed < seconds + _MORE_S and not enough(soak)
    ):
        soak.swaps = int(server.metric('labrador_reload_total{model="pets",result="swapped"}'))
        text = get(f"{server.url}/metrics").text
        series = sum(1 for line in text.splitlines() if not line.startswith("#"))
        resident = worker.memory_info().rss / 1e6
        soak.samples.append((elapsed, resident, worker.num_fds(), worker.num_threads(), series))
        time.sleep(min(SCRAPE_S, seconds / 40))


def drawn() -> list[bytes]:
    """An image in each format."""
    files = []
    for form in _FORMATS:
        buffer = io.BytesIO()
        Image.effect_noise((96, 64), 60).convert("RGB").save(buffer, form)
        files.append(buffer.getvalue())
    return files


def real(folder: Path, most: int = 60) -> list[bytes]:
    """Real files, each in every format."""
    files = []
    for file in sorted(folder.rglob("*.jpg"))[:most]:
        files.append(file.read_bytes())
        with Image.open(file) as image:
            for form in _FORMATS[1:]:
                buffer = io.BytesIO()
                image.convert("RGB").save(buffer, form)
                files.append(buffer.getvalue())
    return files


def main(minutes: float, files: Sequence[bytes]) -> int:
    print(f"{processor()}\n")
    with tempfile.TemporaryDirectory() as folder:
        soak = measure(Path(folder), minutes * 60, files)
    print("| until, s | MB | open files | threads | series |\n|---|---|---|---|---|")
    for row in soak.tenths():
        print(f"| {' | '.join(f'{value:.0f}' for value in row)} |")
    kinds = sorted(soak.answers.items())
    print(f"\n{sum(soak.answers.values())} requests, {soak.swaps} swaps; answers by kind:")
    print(", ".join(f"{kind} {code}: {count}" for (kind, code), count in kinds))
    print(f"growing: {'; '.join(soak.growing()) or 'nothing'}")
    print(f"unexpected: {Counter(soak.unexpected).most_common(10) or 'nothing'}")
    return 1 if soak.unexpected or soak.growing() else 0


if __name__ == "__main__":
    own = real(Path(sys.argv[2])) if len(sys.argv) > 2 else drawn()
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 60, own))
