"""Several workers act as one service: metrics are summed, and all follow the store."""

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.store import Store
from testkit import tiny_models
from testkit.servers import Server, post, serve
from testkit.waiting import until

WITHIN_S = 30


@pytest.fixture(scope="module")
def store_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    tiny_models.add(root, "colours", "single")
    tiny_models.add(root, "colours", "single", weights=tiny_models.WEIGHTS * 0.5)
    return root


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, store_root: Path) -> Iterator[Server]:
    """A server with two workers."""
    folder = tmp_path_factory.mktemp("pair")
    with serve(folder, workers=2, model_store=store_root, reload_s=0.05) as running:
        until(lambda: running.log().count("runs in fp32") >= 2, WITHIN_S)
        yield running


def versions_of(server: Server, count: int) -> Counter[str]:
    """Versions that answer `count` requests, each over a new connection, so from any worker."""
    found: Counter[str] = Counter()
    for _ in range(count):
        answer = post(f"{server.url}/classify", content=tiny_models.picture())
        found[answer.json()["model"]["version"]] += 1
    return found


def test_the_sum_over_workers_is_the_number_of_requests_sent(pair: Server) -> None:
    series = 'labrador_requests_total{code="200",endpoint="classify",model="colours"}'
    images = 'labrador_confidence_count{model="colours"}'
    before = {name: pair.metric(name) for name in (series, images)}

    def ask() -> None:
        for _ in range(25):
            post(f"{pair.url}/classify", content=tiny_models.picture()).raise_for_status()

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    for name, value in before.items():
        assert pair.metric(name) - value == 100
    assert len(pair.workers()) >= 2


def test_every_worker_serves_the_released_version(pair: Server, store_root: Path) -> None:
    assert set(versions_of(pair, 20)) == {"1"}
    swapped = 'labrador_reload_total{model="colours",result="swapped"}'
    Store(store_root).release("colours", 2)
    until(lambda: pair.metric(swapped) == 2, WITHIN_S)
    assert set(versions_of(pair, 20)) == {"2"}


def test_a_dead_worker_is_not_counted_until_it_is_replaced(pair: Server) -> None:
    assert pair.metric("labrador_workers") == 2
    os.kill(pair.workers()[-1], signal.SIGKILL)
    until(lambda: pair.metric("labrador_workers") == 1, WITHIN_S)
    until(lambda: pair.metric("labrador_workers") == 2, WITHIN_S)
