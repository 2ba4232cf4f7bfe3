"""The access log of a real server, read from its stdout."""

import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.observability.access_log import AccessLog
from serving.observability.observation import Observation
from testkit import tiny_models
from testkit.servers import Server, serve
from testkit.waiting import until

RED = tiny_models.picture((200, 30, 30))
STAGES = ["read", "decode", "queue", "infer", "respond"]
MARKER = "n0b0dy-sh0uld-l0g-this"


@pytest.fixture(scope="module")
def logging(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Iterator[Server]:
    """A server with the access log on."""
    folder = tmp_path_factory.mktemp("logging")
    with serve(folder, model_store=store, access_log="json") as running:
        yield running


def _lines(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log().splitlines() if line.startswith("{")]


def _line(
    server: Server, method: str, path: str, headers: dict[str, str] | None = None, **arguments: Any
) -> tuple[httpx.Response, dict[str, Any]]:
    """An answer, and the line about it."""
    trace = secrets.token_hex(16)
    headers = {"traceparent": f"00-{trace}-{secrets.token_hex(8)}-01", **(headers or {})}
    answer = httpx.request(method, server.url + path, headers=headers, timeout=30, **arguments)
    until(lambda: any(line["trace_id"] == trace for line in _lines(server)))
    (line,) = (line for line in _lines(server) if line["trace_id"] == trace)
    return answer, line


def test_a_line_says_what_was_asked_and_where_the_time_went(logging: Server) -> None:
    answer, line = _line(logging, "POST", "/classify?top_k=2", content=RED)
    assert list(line) == [
        "time",
        "method",
        "endpoint",
        "model",
        "status",
        "code",
        "received_bytes",
        "sent_bytes",
        "ms",
        "total_ms",
        "trace_id",
    ]
    assert line["method"] == "POST"
    assert (line["endpoint"], line["model"]) == ("classify", "colours")
    assert (line["status"], line["code"]) == (200, "")
    assert line["received_bytes"] == len(RED)
    assert line["sent_bytes"] == len(answer.content)
    assert list(line["ms"]) == STAGES
    assert 0 < sum(line["ms"].values()) <= line["total_ms"]


def test_a_refusal_has_its_code(logging: Server) -> None:
    _, line = _line(logging, "POST", "/tag", content=b"text")
    assert (line["status"], line["code"]) == (422, "image_undecodable")
    assert (line["model"], line["received_bytes"]) == ("tags", 4)


def test_no_line_has_a_client_s_text(logging: Server) -> None:
    header = {
        f"X-{MARKER}": MARKER,
        "User-Agent": MARKER,
        "Referer": MARKER,
        "baggage": "a=" + MARKER,
    }
    form = {"files": {"image": (f"{MARKER}.jpg", RED, f"image/{MARKER}")}}
    asked = [
        _line(logging, "GET", f"/{MARKER}", header),
        _line(logging, "POST", f"/models/{MARKER}/samples/1", header),
        _line(logging, "POST", f"/classify?{MARKER}={MARKER}", header, content=RED),
        _line(logging, "POST", f"/classify?model={MARKER}", header, content=RED),
        _line(logging, "POST", "/classify", header, **form),
        _line(logging, "POST", "/classify", {"X-Timeout-Ms": MARKER}, content=RED),
        _line(logging, "PROPFIND", "/classify", header),
        _line(logging, "GET", "/", {"tracestate": f"{MARKER.upper()}, {MARKER}"}),
        _line(
            logging, "POST", "/classify", {**header, "tracestate": f"x={MARKER}"}, content=MARKER
        ),
    ]
    statuses = [answer.status_code for answer, _ in asked]
    assert statuses == [404, 405, 400, 404, 200, 400, 405, 200, 422]
    assert asked[0][1]["endpoint"] == "other"
    assert asked[6][1]["method"] == "other"
    assert MARKER not in logging.log().lower()


@pytest.mark.parametrize("header", ["", MARKER, f"00-{'0' * 32}-{'1' * 16}-01", "00-zz-11-01"])
def test_a_trace_id_is_one_or_nothing(logging: Server, header: str) -> None:
    before = len(_lines(logging))
    httpx.get(logging.url + "/models", headers={"traceparent": header})
    until(lambda: any(line["endpoint"] == "models" for line in _lines(logging)[before:]))
    (line,) = (line for line in _lines(logging)[before:] if line["endpoint"] == "models")
    assert line["trace_id"] is None


def test_without_the_setting_there_is_no_line(server: Server) -> None:
    httpx.post(server.url + "/classify", content=RED)
    assert _lines(server) == []


def test_lines_that_nobody_reads_are_lost_and_counted_and_nothing_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serving.observability.access_log._WAITING_MAX", 5)
    reader, writer = os.pipe()
    log = AccessLog(writer)
    line = (Observation(), "GET", "livez", 200, 0, 0.001, None)
    until(lambda: _note(log, line))  # the pipe is full, and what waits for it
    received = b""
    while b"lost_lines" not in received:
        log.note(*line)
        received += os.read(reader, 65536)
    log.close()
    os.close(writer)
    while data := os.read(reader, 65536):
        received += data
    os.close(reader)
    assert all(json.loads(text)["endpoint"] == "livez" for text in received.splitlines())


def _note(log: AccessLog, line: Any) -> bool:
    """Write a hundred lines, and say whether any was lost."""
    for _ in range(100):
        log.note(*line)
    return log._lost > 0


def test_a_model_that_still_runs_may_add_its_time_while_the_line_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a request whose client has left; its thread would come in between now and then."""
    observed = Observation()
    observed.add("read", 0, 0.001)
    observed.add("decode", 0, 0.002)

    def comes_in_between(seconds: float) -> float:
        observed.add("infer", 0, 1)
        return seconds

    monkeypatch.setattr("serving.observability.access_log._ms", comes_in_between)
    reader, writer = os.pipe()
    log = AccessLog(writer)
    log.note(observed, "GET", "livez", 200, 0, 0.003, None)
    log.close()
    assert json.loads(os.read(reader, 65536))["ms"] == {"read": 0.001, "decode": 0.002}
    for end in (reader, writer):
        os.close(end)
