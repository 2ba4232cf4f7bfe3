"""What maps cost, and how long the page takes from a drop to its answer, compared with curl.

python -m benchmarks.page STORE PICTURE [ROUNDS]

STORE holds one single-label model. One client asks in turn without maps and with those of its
likeliest labels, 5 and 20, ROUNDS (100) times each: median milliseconds of an answer, its bytes,
and the service's CPU time. Then curl and the page in Chromium, with the same query, a tenth as
often: from the start of curl to its end, and from the drop to the first bar on the page.
"""

import base64
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from subprocess import run

import httpx
import psutil

from models.hardware import processor
from testkit.browser import chromium
from testkit.servers import ROOT, Server, serve

QUERIES: Mapping[str, Mapping[str, str | int]] = {
    "without maps": {"top_k": 5},
    "with 5 maps": {"top_k": 5, "maps": "true"},
    "20 labels without maps": {"top_k": 20},
    "20 labels with maps": {"top_k": 20, "maps": "true"},
}
_DROP = """(text) => new Promise((shown) => {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], "picture.jpg", { type: "image/jpeg" }));
    new MutationObserver((_, observer) => {
        if (!document.querySelector(".bar")) return;
        observer.disconnect();
        requestAnimationFrame(() => shown(performance.now() - start));
    }).observe(document.body, { childList: true, subtree: true });
    const start = performance.now();
    document.body.dispatchEvent(new DragEvent("drop", { bubbles: true, dataTransfer: data }));
})"""


def main() -> None:
    store, picture = Path(sys.argv[1]), Path(sys.argv[2])
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 100
    print(processor())
    weight = sum(file.stat().st_size for file in (ROOT / "serving" / "page").iterdir())
    print(f"the page's files: {weight / 1000:.1f} KB")
    with (
        tempfile.TemporaryDirectory() as folder,
        serve(Path(folder), model_store=store.resolve()) as server,
    ):
        for line in answers(server, picture.read_bytes(), rounds):
            print(line, flush=True)
        print(f"curl: {curl_ms(server, picture, max(rounds // 10, 3)):.0f} ms")
        print(f"page: {page_ms(server, picture, max(rounds // 10, 3)):.0f} ms", flush=True)


def answers(server: Server, image: bytes, rounds: int) -> Iterator[str]:
    """A line for each query: the queries take turns, so that other load slows all of them."""
    worker = psutil.Process(server.worker())
    times: dict[str, list[float]] = {name: [] for name in QUERIES}
    cpu: dict[str, float] = dict.fromkeys(QUERIES, 0.0)
    sizes: dict[str, int] = {}
    with httpx.Client(base_url=server.url, timeout=60) as client:
        labels = len(client.get("/models").json()["models"][0]["labels"])
        for number in range(rounds + 1):
            for name, query in QUERIES.items():
                params = {**query, "top_k": min(int(query["top_k"]), labels)}
                before, start_s = worker.cpu_times(), time.perf_counter()
                answer = client.post("/classify", params=params, content=image)
                taken_s, after = time.perf_counter() - start_s, worker.cpu_times()
                sizes[name] = len(answer.raise_for_status().content)
                if number:  # the first round warms up
                    times[name].append(taken_s)
                    cpu[name] += after.user + after.system - before.user - before.system
    for name in QUERIES:
        yield (
            f"{name}: {1000 * median(times[name]):.2f} ms, {sizes[name]:,} bytes,"
            f" {1000 * cpu[name] / rounds:.1f} ms of CPU"
        )


def curl_ms(server: Server, picture: Path, rounds: int) -> float:
    url, times = f"{server.url}/classify?top_k=5&maps=true", []
    for _ in range(rounds):
        start_s = time.perf_counter()
        run(["curl", "-sS", "--data-binary", f"@{picture}", "-o", "/dev/null", url], check=True)
        times.append(time.perf_counter() - start_s)
    return 1000 * median(times)


def page_ms(server: Server, picture: Path, rounds: int) -> float:
    text = base64.b64encode(picture.read_bytes()).decode()
    times: list[float] = []
    with chromium() as browser:
        page = browser.new_page()
        for _ in range(rounds):
            page.goto(f"{server.url}/")
            page.wait_for_selector("#samples li")
            times.append(page.evaluate(_DROP, text))
    return median(times)


if __name__ == "__main__":
    main()
