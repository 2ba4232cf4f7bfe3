"""Traces of a real server, as a collector receives them."""

import json
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from serving.observability import tracing
from serving.settings import SettingsError
from testkit import tiny_models
from testkit.in_process import Inside, run_inside
from testkit.otlp import Receiver, Span, receiving
from testkit.servers import Server, get, post, serve
from testkit.waiting import until

RED = tiny_models.picture((200, 30, 30))
STAGES = ["read", "decode", "queue", "infer", "respond"]


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def traced(
    tmp_path_factory: pytest.TempPathFactory, store: Path, receiver: Receiver
) -> Iterator[Server]:
    """A server that sends its spans to the receiver, and writes an access log."""
    folder = tmp_path_factory.mktemp("traced")
    variables = [f"OTEL_EXPORTER_OTLP_ENDPOINT={receiver.url}", "OTEL_BSP_SCHEDULE_DELAY=20"]
    with serve(folder, inside=["env", *variables], model_store=store, access_log="json") as running:
        yield running


def _ask(
    server: Server | Inside, path: str = "/classify", flags: str = "01", **arguments: object
) -> tuple[httpx.Response, str, str]:
    """An answer, and the IDs of the trace and of the span that the client gave it."""
    trace, span = secrets.token_hex(16), secrets.token_hex(8)
    headers = {"traceparent": f"00-{trace}-{span}-{flags}"}
    answer = post(f"{server.url}{path}", headers=headers, timeout=30, **arguments)  # type: ignore[arg-type]
    return answer, trace, span


def _ended(spans: list[Span]) -> bool:
    """Whether the span of the request is there: it is the last to end."""
    return any(" " in span.name for span in spans)


def test_a_request_is_a_span_below_the_client_s_with_one_for_each_stage(
    traced: Server, receiver: Receiver
) -> None:
    _, trace, client = _ask(traced, content=RED)
    spans = receiver.wait(trace, _ended)
    (request,) = (span for span in spans if span.parent == client)
    assert (request.name, request.service) == ("POST classify", "labrador")
    assert request.attributes == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "labrador.endpoint": "classify",
        "labrador.model": "colours",
    }
    below = [span for span in spans if span.parent == request.id]
    assert sorted(span.name for span in below) == sorted([*STAGES, "batch"])
    assert not request.failed


def test_the_stages_follow_one_another_within_the_request(
    traced: Server, receiver: Receiver
) -> None:
    _, trace, client = _ask(traced, content=RED)
    spans = receiver.wait(trace, _ended)
    (request,) = (span for span in spans if span.parent == client)
    stages = [span for span in spans if span.name in STAGES]
    assert [span.name for span in stages] == STAGES
    rounding_ns = 2000  # each time is a float of seconds since the start of the machine
    assert request.start <= stages[0].start + rounding_ns
    assert stages[-1].end <= request.end + rounding_ns
    for before, after in pairwise(stages):
        assert before.end <= after.start + rounding_ns
    assert sum(span.nanoseconds for span in stages) <= request.nanoseconds + 5 * rounding_ns


def test_metrics_spans_and_the_log_have_the_same_times(traced: Server, receiver: Receiver) -> None:
    series = [f'labrador_stage_seconds_sum{{stage="{stage}"}}' for stage in STAGES]
    before = [traced.metric(name) for name in series]
    _, trace, _ = _ask(traced, content=RED)
    spans = {span.name: span for span in receiver.wait(trace, _ended)}
    for name, stage, was in zip(series, STAGES, before, strict=True):
        assert traced.metric(name) - was == pytest.approx(spans[stage].nanoseconds / 1e9, abs=1e-5)
    until(lambda: trace in traced.log())
    (text,) = (line for line in traced.log().splitlines() if trace in line)
    for stage, ms in json.loads(text)["ms"].items():
        assert ms == pytest.approx(spans[stage].nanoseconds / 1e6, abs=1e-2)


def _nearest(span: Span, others: list[Span]) -> Span:
    """In time; two requests' clocks differ by some microseconds."""
    return min(others, key=lambda o: abs(span.start - o.start) + abs(span.end - o.end))


def test_each_run_is_linked_to_the_requests_in_its_batch(
    traced: Server, receiver: Receiver
) -> None:
    many = [("image", ("a.jpg", RED))] * 20
    largest = 0
    for _ in range(50):  # until two requests have met in a batch
        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(_ask, traced, files=many) for _ in range(4)]
        traces = [job.result()[1] for job in asked]
        found = [span for trace in traces for span in receiver.wait(trace, _ended)]
        runs = [span for span in found if span.name == "batch"]
        for run in runs:
            infers = [s for s in found if s.name == "infer" and _nearest(s, runs) is run]
            assert run.attributes["labrador.batch_size"] == len(infers)
            assert set(run.links) == {span.parent for span in infers}
            assert len(run.links) == len(set(run.links))
            assert run.parent in run.links
        assert sum(int(run.attributes["labrador.batch_size"]) for run in runs) == 4 * 20
        largest = max(largest, *(len(run.links) for run in runs))
        if largest > 1:
            return
    raise AssertionError("no two requests met in a batch")


def test_an_error_is_named_by_its_code_and_only_the_service_s_own_fail_the_span(
    traced: Server, receiver: Receiver
) -> None:
    _, trace, _ = _ask(traced, content=b"text")
    (request,) = (span for span in receiver.wait(trace, _ended) if " " in span.name)
    assert request.attributes["error.type"] == "image_undecodable"
    assert request.attributes["http.response.status_code"] == 422
    assert not request.failed


def test_what_the_client_does_not_sample_is_not_sent(traced: Server, receiver: Receiver) -> None:
    _, unsampled, _ = _ask(traced, content=RED, flags="00")
    _, sampled, _ = _ask(traced, content=RED)
    receiver.wait(sampled, _ended)
    assert receiver.trace(unsampled) == []


def test_no_span_has_a_client_s_text(traced: Server, receiver: Receiver) -> None:
    marker = "n0b0dy-sh0uld-trace-this"
    _, other, _ = _ask(traced, f"/{marker}?{marker}={marker}", content=marker)
    _, form, _ = _ask(traced, files={"image": (f"{marker}.jpg", RED)})
    found = receiver.wait(other, _ended) + receiver.wait(form, _ended)
    assert "POST other" in [span.name for span in found]
    assert marker not in repr(found)


def test_headers_for_tracing_that_are_malformed_are_not_logged(
    traced: Server, receiver: Receiver
) -> None:
    marker = "n0b0dy-sh0uld-l0g-this"
    trace = secrets.token_hex(16)
    headers = {
        "traceparent": f"00-{trace}-{secrets.token_hex(8)}-01",
        "tracestate": f"{marker.upper()}={marker}, {marker}",
        "baggage": f'{marker}, ={marker}, {marker}="{marker}',
    }
    post(f"{traced.url}/classify", content=RED, headers=headers)
    receiver.wait(trace, _ended)
    assert marker not in traced.log().lower()


def test_a_probe_has_no_span(traced: Server, receiver: Receiver) -> None:
    get(f"{traced.url}/livez")
    _, trace, _ = _ask(traced, content=RED)
    receiver.wait(trace, _ended)
    assert {span.name for span in receiver.spans if " " in span.name} <= {
        "POST classify",
        "POST other",
    }


def test_what_is_not_sent_yet_is_sent_at_the_end(
    monkeypatch: pytest.MonkeyPatch, receiver: Receiver, metrics_folder: Path, store: Path
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
    with run_inside(metrics_folder, model_store=store, device="cpu") as server:
        _, trace, _ = _ask(server, content=RED)
        assert receiver.trace(trace) == []
    assert _ended(receiver.trace(trace))


# Off.


def test_without_its_variables_no_request_imports_the_sdk(tmp_path: Path, store: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; import httpx\n"
        "from testkit.in_process import run_inside; from testkit import tiny_models\n"
        "with run_inside(Path(sys.argv[1]), model_store=Path(sys.argv[2]), device='cpu') as server:"
        "\n    httpx.post(f'{server.url}/classify', content=tiny_models.picture())"
        ".raise_for_status()\n"
        "    httpx.get(f'{server.url}/metrics').raise_for_status()\n"
        "print(*[name for name in sys.modules if name.startswith('opentelemetry.sdk')])"
    )
    run = [sys.executable, "-c", script, str(tmp_path), str(store)]
    done = subprocess.run(run, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, []),
        ({"OTEL_SERVICE_NAME": "x"}, []),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, []),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "TRUE"}, []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, ["otlp"]),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, ["otlp"]),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, ["console", "otlp"]),
    ],
)
def test_opentelemetry_s_own_variables_ask_for_traces(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: list[str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert tracing.exporters() == expected


def test_an_exporter_that_is_not_installed_is_refused_with_what_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "nope")
    with pytest.raises(SettingsError, match="nope is not installed; installed: console, otlp"):
        tracing.check()
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier/pigeon")
    with pytest.raises(SettingsError, match="use http/protobuf or grpc"):
        tracing.check()


def test_a_variable_that_the_sdk_cannot_use_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-1")
    with pytest.raises(SettingsError, match="OpenTelemetry: .*positive"):
        tracing.configured()


def test_a_collector_that_is_away_costs_no_answer(
    monkeypatch: pytest.MonkeyPatch, inside: Callable[..., Inside]
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setattr(tracing, "_FLUSH_S", 0.1)
    server = inside()
    for _ in range(3):
        assert post(f"{server.url}/classify", content=RED, timeout=30).status_code == 200
