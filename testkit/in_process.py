"""The application behind a real socket in this process, where a test can hold a stage of it."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from serving.app import Application
from serving.settings import Settings
from testkit.servers import get, metric, post
from testkit.waiting import WITHIN_S, until


@dataclass(frozen=True)
class Inside:
    url: str
    port: int

    def metric(self, series: str) -> float:
        return metric(self.url, series)

    def connect(self) -> socket.socket:
        """A connection on which nothing has been sent yet."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=WITHIN_S)


@dataclass(frozen=True)
class Hold:
    """A stage that waits at its start until it is released."""

    reached: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    go: threading.Event = field(default_factory=threading.Event)

    def __call__(self) -> None:
        self.reached.release()
        assert self.go.wait(WITHIN_S)

    def wait(self) -> None:
        """Wait until something has arrived here."""
        assert self.reached.acquire(timeout=WITHIN_S)


@contextmanager
def run_inside(
    metrics_folder: Path, ready: bool = True, schema: dict[str, Any] | None = None, **settings: Any
) -> Iterator[Inside]:
    """One worker's application, as BentoML's uvicorn runs it; `ready`: wait until it is ready."""
    application = Application(Settings(**settings), metrics_folder, schema or {})
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(application, log_config=None, access_log=False))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        inside = Inside(f"http://127.0.0.1:{port}", port)
        try:
            until(lambda: server.started)
            if ready:
                until(lambda: get(f"{inside.url}/readyz").status_code == 200)
            yield inside
        finally:
            server.should_exit = True
            thread.join(WITHIN_S)
            assert not thread.is_alive()


def ask(running: Inside, query: str, image: bytes) -> dict[str, Any]:
    """The answer about an image."""
    response = post(f"{running.url}/{query}", content=image)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer
