"""A real nginx with the configuration of deploy/nginx in front of the real service."""

import json
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from http import HTTPStatus
from http.client import HTTPResponse
from pathlib import Path

import httpx
import pytest

from models import errors
from serving.settings import Settings
from testkit import tiny_models
from testkit.proxy import CONFIGURATION, Proxy, configure, proxy
from testkit.servers import Server, free_port, serve

pytestmark = pytest.mark.skipif(
    shutil.which("nginx") is None or shutil.which("openssl") is None,
    reason="nginx or openssl is missing: Debian's packages nginx and openssl",
)
READ_TIMEOUT_S = 2
KEEP_ALIVE_S = 5  # uvicorn's default, which BentoML does not change


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    tiny_models.add(folder / "store", "colours", "single")
    with serve(folder, model_store=folder / "store", read_timeout_s=READ_TIMEOUT_S) as running:
        yield running


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Iterator[Proxy]:
    """The proxy in front of the service and of a port on which nothing listens."""
    with proxy(tmp_path_factory.mktemp("nginx"), [free_port(), server.port]) as running:
        yield running


@pytest.fixture
def client(nginx: Proxy) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=nginx.url, verify=nginx.trust, timeout=30) as client:
        yield client


def connect(nginx: Proxy) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", nginx.port), timeout=30)
    return nginx.trust.wrap_socket(plain, server_hostname="127.0.0.1")


def receive(connection: socket.socket) -> bytes:
    """Everything until the other side closes or resets the connection."""
    chunks = []
    try:
        while chunk := connection.recv(65536):
            chunks.append(chunk)
    except (ConnectionResetError, ssl.SSLEOFError):
        pass
    return b"".join(chunks)


def exchange(nginx: Proxy, data: bytes) -> tuple[int, bytes]:
    """Send exactly these bytes; status and body of the first answer, or status 0 without one."""
    with closing(connect(nginx)) as connection:
        connection.sendall(data)
        head, _, body = receive(connection).partition(b"\r\n\r\n")
    return int(head.split()[1]) if head else 0, body


def setting(name: str) -> str:
    """The value of a directive, which occurs once in the configuration."""
    text = (CONFIGURATION / "nginx.conf").read_text()
    (value,) = re.findall(rf"^\s*{name} ([^;]+);", text, re.MULTILINE)
    return str(value)


def seconds(name: str) -> int:
    return int(setting(name).removesuffix("s"))


def test_nginx_accepts_the_configuration(tmp_path: Path) -> None:
    script, _ = configure(tmp_path, [free_port()])
    checked = subprocess.run([*script, "-t"], capture_output=True, text=True)
    assert checked.returncode == 0 and "warn" not in checked.stderr, checked.stderr
    with (tmp_path / "nginx" / "servers.conf").open("a") as file:
        file.write("server 127.0.0.1:1 max_fials=3;\n")
    checked = subprocess.run([*script, "-t"], capture_output=True, text=True)
    assert checked.returncode != 0 and "max_fials" in checked.stderr


def test_limits_agree_with_those_of_the_service() -> None:
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    assert setting("client_max_body_size") == f"{defaults['max_body_mb']}m"
    assert seconds("proxy_read_timeout") > defaults["timeout_s"]
    # a request that took too long is not retried
    assert seconds("proxy_next_upstream_timeout") < seconds("proxy_read_timeout")
    (idle_s,) = re.findall(r"keepalive_timeout (\d+)s", (CONFIGURATION / "nginx.conf").read_text())
    assert int(idle_s) < min(defaults["drain_s"], KEEP_ALIVE_S)


def test_nginx_s_own_errors_match_those_of_the_service() -> None:
    known = {error.code: error.status for error in vars(errors).values() if hasattr(error, "code")}
    text = (CONFIGURATION / "nginx.conf").read_text()
    problems = re.findall(r"^ +(\d{3}) '(\"title\".*)';$", text, re.MULTILINE)
    assert len(problems) == 6
    for status, members in problems:
        problem = json.loads(f"{{{members}}}")
        assert problem["status"] == int(status) == known[problem["code"]]
        assert problem["title"] and problem["detail"]


def test_requests_pass_and_a_server_that_refuses_connections_is_skipped(
    nginx: Proxy, client: httpx.Client
) -> None:
    answers = [client.post("/classify?top_k=1", content=tiny_models.picture()) for _ in range(8)]
    assert [answer.status_code for answer in answers] == [200] * 8
    assert answers[0].json()["predictions"][0]["label"] == "red"
    entries = {entry["request_id"]: entry for entry in nginx.log()}
    first = [entries[answer.headers["X-Request-Id"]]["server_status"] for answer in answers]
    assert "502, 200" in first and set(first) <= {"502, 200", "200"}


def test_errors_of_the_service_are_not_changed(client: httpx.Client) -> None:
    assert client.post("/classify", content=b"not an image").json()["code"] == "image_undecodable"
    files = [("image", ("a.jpg", b"a"))] * 65
    answer = client.post("/classify", files=files)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_many_images")


def test_without_any_server_the_error_is_a_problem_object(tmp_path: Path) -> None:
    with proxy(tmp_path, [free_port()]) as nginx:
        answer = httpx.get(f"{nginx.url}/readyz", verify=nginx.trust)
    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_a_body_that_is_too_large_is_refused_whether_announced_or_not(
    nginx: Proxy, client: httpx.Client
) -> None:
    head = b"POST /classify HTTP/1.1\r\nHost: a\r\n"
    mebibyte = bytes(2**20)
    chunk = b"100000\r\n" + mebibyte + b"\r\n"
    for data in (
        head + b"Content-Length: %d\r\n\r\n" % (11 * 2**20),
        head + b"Transfer-Encoding: chunked\r\n\r\n" + 11 * chunk,
    ):
        status, body = exchange(nginx, data)
        problem = json.loads(body)
        assert (status, problem["status"], problem["code"]) == (413, 413, "body_too_large")
    # a body that is just small enough reaches the service
    assert client.post("/classify", content=10 * mebibyte).status_code == 422


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        b"Content-Length: 5\r\nContent-Length: 5\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: 5, 5\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: -5\r\n",
        b"Content-Length: 0x5\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Content-Length: 5\r\nX-Folded: a\r\n b\r\n",
        b"Content-Length: 5\r\n Transfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\nHost: b\r\n",
        b"Content-Length: 5\r\nX-\0: b\r\n",
        b"Content-Length: 5\r\nX-Long: " + bytes(32768).replace(b"\0", b"a") + b"\r\n",
    ],
)
def test_a_request_that_two_servers_could_read_differently_is_refused(
    nginx: Proxy, headers: bytes
) -> None:
    smuggled = b"0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"
    request = b"POST /classify HTTP/1.1\r\nHost: a\r\n" + headers + b"\r\n" + smuggled
    before = len(nginx.log())
    status, body = exchange(nginx, request)
    assert status == 400, body
    assert b"labrador_" not in body and b"HTTP/1.1" not in body, "more than one answer"
    assert all(entry["server"] == "" for entry in nginx.log()[before:])


@pytest.mark.parametrize(
    "line", ["POST /classify%00", "POST /%zz", "POST classify", "\x16\x03\x01"]
)
def test_an_invalid_request_line_gets_a_problem_object(nginx: Proxy, line: str) -> None:
    status, body = exchange(nginx, line.encode() + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (status, json.loads(body)["code"]) == (400, "bad_parameter")


@pytest.mark.parametrize("coding", [b"identity", b"gzip, chunked", b"chunked, identity"])
def test_transfer_codings_other_than_chunked_are_refused(nginx: Proxy, coding: bytes) -> None:
    request = b"POST /classify HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: " + coding
    assert exchange(nginx, request + b"\r\n\r\n0\r\n\r\n")[0] == HTTPStatus.NOT_IMPLEMENTED


def test_a_request_is_rewritten_for_the_service(tmp_path: Path) -> None:
    """A socket in place of the service shows what arrives."""
    request = (
        b"POST /classify HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
        b"Connection: close, X-Timeout-Ms\r\nX-Timeout-Ms: 7\r\nX_Timeout_Ms: 8\r\nX-A/B: c\r\n"
        b"X-Request-Id: forged\r\nX-Forwarded-For: 8.8.8.8\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    )
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        proxy(tmp_path, [listener.getsockname()[1]]) as nginx,
        closing(connect(nginx)) as client,
    ):
        client.sendall(request)
        connection, _ = listener.accept()
        with connection:
            head, _, body = connection.recv(65536).partition(b"\r\n\r\n")
    headers = dict(line.decode().split(": ", 1) for line in head.split(b"\r\n")[1:])
    assert len(headers.pop("X-Request-Id")) == 32
    assert headers == {
        "Host": "a",
        "X-Forwarded-For": "127.0.0.1",
        "X-Forwarded-Proto": "https",
        "Content-Length": "3",
        "X-Timeout-Ms": "7",
    }
    assert body == b"abc"


@pytest.mark.parametrize(
    "path",
    ["/metrics", "//metrics", "/./metrics", "/a/../metrics", "/%6detrics", "/%2e/metrics"]
    + ["/metrics?a=b", "/metrics/", "/metrics%2f", "/metrics;a", "/%2fmetrics", "/METRICS"]
    + ["/metrics%00", "/metrics%20", "/metrics#a", "https://a/metrics", "/a/%2e%2e/metrics"],
)
def test_metrics_cannot_be_reached_from_outside(nginx: Proxy, path: str) -> None:
    request = f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    status, body = exchange(nginx, request.encode())
    assert status in (400, 404), body
    assert b"labrador_" not in body


def test_slow_clients_are_cut_off(nginx: Proxy) -> None:
    """An endless header, and a body that stops: both at once, as they take long."""
    head = b"POST /classify HTTP/1.1\r\nHost: a\r\n"
    lasted_s = {}

    def drip() -> None:
        with closing(connect(nginx)) as connection:
            start_s = time.monotonic()
            connection.sendall(head)
            connection.settimeout(1)
            while time.monotonic() - start_s < 60:
                try:
                    connection.sendall(b"X-A: b\r\n")
                    if not connection.recv(1):
                        break
                except TimeoutError:
                    continue
                except OSError:
                    break
            lasted_s["header"] = time.monotonic() - start_s

    def stop() -> None:
        with closing(connect(nginx)) as connection:
            start_s = time.monotonic()
            connection.sendall(head + b"Content-Length: 1000\r\n\r\n" + bytes(500))
            answer = receive(connection)
            lasted_s["body"] = time.monotonic() - start_s
            assert b" 200 " not in answer

    threads = [threading.Thread(target=work) for work in (drip, stop)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seconds("client_header_timeout") - 1 < lasted_s["header"] < 20
    assert seconds("client_body_timeout") - 1 < lasted_s["body"] < 20


def test_a_slow_upload_is_buffered_by_nginx_and_not_by_the_service(
    nginx: Proxy, server: Server
) -> None:
    image = tiny_models.picture()
    head = b"POST /classify HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    head += b"Content-Length: %d\r\n\r\n" % len(image)

    def upload(connection: socket.socket) -> bytes:
        connection.sendall(head + image[:100])
        time.sleep(READ_TIMEOUT_S + 1)
        connection.sendall(image[100:])
        return receive(connection).split()[1]

    with closing(connect(nginx)) as through:
        assert upload(through) == b"200"
    with closing(socket.create_connection(("127.0.0.1", server.port))) as directly:
        assert upload(directly) == b"408"


def test_the_connections_of_one_address_are_limited(nginx: Proxy) -> None:
    most = int(setting("limit_conn").removeprefix("clients "))
    head = b"POST /classify HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n"
    with ExitStack() as stack:
        for _ in range(most):
            stack.enter_context(closing(connect(nginx))).sendall(head)
        with closing(connect(nginx)) as connection:
            connection.sendall(head)
            response = HTTPResponse(connection)
            response.begin()
            assert response.headers["Retry-After"] == "1"
            assert (response.status, json.load(response)["code"]) == (429, "overloaded")
    last = head.replace(b"Host: a", b"Host: a\r\nConnection: close")
    assert exchange(nginx, last + bytes(10))[0] == 422


def test_only_tls_1_2_and_newer_is_accepted(nginx: Proxy) -> None:
    with closing(socket.create_connection(("127.0.0.1", nginx.port))) as connection:
        connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert receive(connection).startswith(b"HTTP/1.1 400 ")

    def agrees(version: str) -> bool:
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{nginx.port}", version]
        command += ["-cipher", "ALL:@SECLEVEL=0"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
        return done.returncode == 0

    assert [agrees(v) for v in ("-tls1", "-tls1_1", "-tls1_2", "-tls1_3")] == [
        False,
        False,
        True,
        True,
    ]
