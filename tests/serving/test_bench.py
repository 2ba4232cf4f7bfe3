import asyncio
import re
from dataclasses import replace
from pathlib import Path

import pytest

from serving import bench
from serving.bench import Load, LoadTestError, Plan
from testkit import tiny_models
from testkit.servers import Server, free_port


def plan(server: Server) -> Plan:
    return Plan(server.url, "colours", (2,), (20.0,), 1.5, None)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    files = [tmp_path / "red.jpg", tmp_path / "green.jpg"]
    for file, colour in zip(files, [(200, 30, 30), (20, 180, 60)], strict=True):
        file.write_bytes(tiny_models.picture(colour))
    return files


def measured(of: Plan, files: list[Path]) -> str:
    return asyncio.run(bench.measure(of, files))


def rows_of(text: str) -> dict[str, list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")][1:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in cells}


def test_answers_are_counted_as_the_service_counts_them(server: Server, images: list[Path]) -> None:
    series = 'labrador_requests_total{code="200",endpoint="classify",model="colours"}'
    before = server.metric(series)
    text = measured(plan(server), images)
    rows = rows_of(text)
    assert set(rows) == {"2 clients", "20/s"}
    counted = sum(int(found) for found in re.findall(r"(\d+)x 200", text))
    warm_up = server.metric(series) - before - counted
    assert 0 < warm_up < server.metric(series) - before
    for row in rows.values():
        rate, p50, p90, p99, most = map(float, row[:5])
        assert rate > 0 and p50 <= p90 <= p99 <= most
        assert row[5:] == ["0", "0"]


def test_an_open_loop_sends_at_the_given_rate(server: Server, images: list[Path]) -> None:
    text = measured(replace(plan(server), clients=()), images)
    assert "30x 200" in text  # 20 per second for 1.5 s


def test_stages_and_the_client_s_own_cpu_time_are_reported(
    server: Server, images: list[Path]
) -> None:
    text = measured(plan(server), images)
    assert re.search(r"mean ms: read [\d.]+, decode [\d.]+, queue [\d.]+, infer [\d.]+, resp", text)
    assert re.search(r"this client's CPU \d+% \([\d.]+ ms per answer\)", text)


def test_refused_requests_are_shed_or_failed_and_excluded_from_latencies(
    server: Server, tmp_path: Path
) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("not an image")
    rows = rows_of(measured(plan(server), [text]))
    for row in rows.values():
        assert row[0] == "0.0" and row[1] == "nan"
        assert int(row[5]) == 0 and int(row[6]) > 0


def test_an_unreachable_service_or_an_unknown_model_is_named(
    server: Server, images: list[Path]
) -> None:
    with pytest.raises(LoadTestError, match="does not answer as a Labrador service"):
        measured(replace(plan(server), url=f"http://127.0.0.1:{free_port()}"), images)
    for name in ("pets", None):
        with pytest.raises(LoadTestError, match=f"--model {name}: choose one of colours, tags"):
            measured(replace(plan(server), model=name), images)


def load(infer_s: float, client_s: float) -> Load:
    found = Load("8 clients", wall_s=10, client_cpu_s=client_s, times=[0.1] * 400)
    found.codes["200"] = 400
    found.stages = {
        "read": (0.4, 400),
        "decode": (2.0, 400),
        "queue": (4.0, 400),
        "infer": (infer_s, 100),
        "respond": (0.4, 400),
    }
    return found


def test_the_sentence_names_the_bottleneck() -> None:
    assert bench.bottleneck(load(9.5, 2)).endswith(": the bottleneck is the model.")
    assert "the bottleneck is this client, so" in bench.bottleneck(load(3, 9))
    two_workers = load(9.5, 2)
    two_workers.workers = 2
    assert "the model runs 48% of the time" in bench.bottleneck(two_workers)
    idle = bench.bottleneck(load(3, 1))
    assert idle.endswith(": neither is the bottleneck.")
    assert "decode 5.0" in idle and "4.0 images per run" in idle and "infer 30.0" in idle
