"""A real S3 server, moto's, and a proxy in front of it that breaks what a test tells it to."""

import http.client
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import Lock
from typing import Literal

import httpx

from testkit.http_stub import Quiet, answering
from testkit.servers import free_port
from testkit.waiting import until_it_answers

Fault = Literal["500", "403", "cut", "lost", "half", "changed", "hang"]
"""500, 403: answered so. cut: no answer. lost: done, but no answer. half: cut off in the middle of
the answer. changed: the last byte is another one. hang: no answer for HANG_S.
"""
BUCKET = "models"
SECRET = "a-secret-that-nobody-may-print"
HANG_S = 5
_DENIED = f"<Error><Code>SignatureDoesNotMatch</Code><StringToSign>{SECRET}</StringToSign></Error>"
_PER_CONNECTION = {"connection", "transfer-encoding", "content-length", "server", "date"}


@dataclass
class Proxy:
    """`fault(method, path)`: what goes wrong with a request, None for nothing; it may also wait.

    requests: method, path and status of each that was answered, in order. url: of a store that no
    other test has.
    """

    port: int = 0
    prefix: str = ""
    fault: Callable[[str, str], Fault | None] = lambda method, path: None
    requests: list[tuple[str, str, int]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"s3://{BUCKET}/{self.prefix}"

    def asked(self, method: str, ending: str) -> int:
        """How many requests of this method there were for paths that end so."""
        return sum(found[0] == method and found[1].endswith(ending) for found in self.requests)

    def environment(self) -> dict[str, str]:
        """What a client of the object store finds in its environment."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }


@contextmanager
def s3_server() -> Iterator[int]:
    """The port of an S3 server with the bucket BUCKET."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until_it_answers("moto", process, lambda: _create(port))
        yield port
    finally:
        process.kill()
        process.wait()


def _create(port: int) -> None:
    """The bucket."""
    made = httpx.put(f"http://127.0.0.1:{port}/{BUCKET}", verify=False)
    assert made.status_code == 200, made.text


@contextmanager
def proxy(server_port: int) -> Iterator[Proxy]:
    """A proxy in front of the S3 server.

    It passes on one PUT at a time: S3 compares and writes in one step, moto might not.
    """
    writing = Lock()

    own = Proxy(prefix=secrets.token_hex(4))

    class Handler(Quiet):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = self.path.partition("?")[0].removeprefix(f"/{BUCKET}/{own.prefix}/")
            fault = own.fault(self.command, path)
            if fault == "hang":
                time.sleep(HANG_S)
            if fault in ("cut", "hang"):
                self._cut()
                return
            if fault in ("500", "403"):
                self._send(int(fault), {}, _DENIED.encode() if fault == "403" else b"")
                return
            if self.command == "PUT":
                with writing:
                    status, headers, answer = self._upstream(body)
            else:
                status, headers, answer = self._upstream(body)
            if fault == "lost":
                self._cut()
                return
            if fault == "changed" and answer:
                answer = answer[:-1] + bytes([answer[-1] ^ 1])
            own.requests.append((self.command, path, status))
            self._send(status, headers, answer, half=fault == "half")

        def _upstream(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
            upstream = http.client.HTTPConnection("127.0.0.1", server_port, timeout=60)
            try:
                upstream.request(self.command, self.path, body, dict(self.headers.items()))
                found = upstream.getresponse()
                return found.status, dict(found.getheaders()), found.read()
            finally:
                upstream.close()

        def _send(
            self, status: int, headers: dict[str, str], body: bytes, half: bool = False
        ) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in _PER_CONNECTION:
                    self.send_header(name, value)
            length = headers.get("Content-Length") if self.command == "HEAD" else len(body)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if half else body)
            if half:
                self._cut()

        def _cut(self) -> None:
            self.wfile.flush()
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on  # noqa: N815

    with answering(Handler) as own.port:
        yield own
