"""Requests through the application: limits, deadlines, disconnects, batching."""

import json
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from models import preprocess
from models.bundle import read_manifest
from models.errors import ModelFailed
from models.hardware import cpu_cores
from models.manifest import Preprocess
from serving import prediction
from serving.bentoml_internals import PICKLE
from serving.local import Local
from serving.prediction import TOP_K
from serving.settings import Settings
from testkit import tiny_models
from testkit.in_process import Hold, Inside, run_inside
from testkit.servers import get, post
from testkit.waiting import WITHIN_S, until

RED = tiny_models.picture((200, 30, 30))  # 48 x 48 pixels

Start = Callable[..., Inside]


@pytest.fixture
def decoding(inside: Start, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hold]:
    """Blocks the decoding of every image until it is released."""
    hold = Hold()

    def decode(
        image: bytes, settings: Preprocess, megapixels: float
    ) -> tuple[NDArray[np.uint8], preprocess.Box]:
        hold()
        return preprocess.decode_with_box(image, settings, megapixels)

    monkeypatch.setattr(prediction, "decode_with_box", decode)
    yield hold
    hold.go.set()


def _post(server: Inside, path: str = "/classify", **arguments: object) -> httpx.Response:
    return post(f"{server.url}{path}", timeout=WITHIN_S, **arguments)  # type: ignore[arg-type]


def _is(response: httpx.Response, status: int, code: str) -> bool:
    return (response.status_code, response.json()["code"]) == (status, code)


def _head(length: int, *headers: str) -> bytes:
    """The head of a request, whose body is sent separately."""
    lines = ["POST /classify HTTP/1.1", "Host: x", f"Content-Length: {length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


# Limits.


def test_max_megapixels_is_set_by_the_operator(inside: Start) -> None:
    assert _post(inside(max_megapixels=48 * 48 / 1e6), content=RED).status_code == 200
    refused = _post(inside(max_megapixels=(48 * 48 - 1) / 1e6), content=RED)
    assert _is(refused, 422, "image_too_large")


def test_max_body_mb_is_set_by_the_operator(inside: Start) -> None:
    server = inside(max_body_mb=1000 / 2**20)
    assert _is(_post(server, content=bytes(1000)), 422, "image_undecodable")
    assert _is(_post(server, content=bytes(1001)), 413, "body_too_large")
    assert _is(_post(server, content=iter([bytes(1000), b"\0"])), 413, "body_too_large")


def test_timeout_s_is_set_by_the_operator_and_no_client_gets_more(
    inside: Start, decoding: Hold
) -> None:
    server = inside(timeout_s=0.05)
    assert _is(_post(server, content=RED), 504, "deadline_exceeded")
    longer = _post(server, content=RED, headers={"X-Timeout-Ms": "3600000"})
    assert _is(longer, 504, "deadline_exceeded")
    assert not decoding.go.is_set()


def test_read_timeout_s_is_set_by_the_operator_and_closes_the_connection(inside: Start) -> None:
    with inside(read_timeout_s=0.05).connect() as connection:
        # the client's own, much later deadline would be a 504
        connection.sendall(_head(1000, "X-Timeout-Ms: 5000") + b"x")
        answer = b""
        while data := connection.recv(65536):  # until the server closes it
            answer += data
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "read_timeout"


# A client's deadline.


def test_a_clients_deadline_is_kept_while_an_image_is_decoded(
    inside: Start, decoding: Hold
) -> None:
    server = inside(timeout_s=3600)
    expired = 'labrador_dropped_total{reason="expired"}'
    before = server.metric(expired)
    late = _post(server, content=RED, headers={"X-Timeout-Ms": "50"})
    assert _is(late, 504, "deadline_exceeded")
    assert not decoding.go.is_set()  # it was answered long before the image was decoded
    assert server.metric(expired) == before + 1


def test_a_deadline_that_the_client_set_itself_is_not_counted_as_the_services_failure(
    inside: Start, decoding: Hold
) -> None:
    """Both are answered 504; the client's own is counted as 499, as if it had left."""
    counts = [
        f'labrador_requests_total{{code="{code}",endpoint="classify",model="colours"}}'
        for code in (499, 504)
    ]
    for headers, limit_s, expected in (({"X-Timeout-Ms": "50"}, 30, [1, 0]), ({}, 0.05, [0, 1])):
        server = inside(timeout_s=limit_s)
        before = [server.metric(series) for series in counts]
        assert _is(_post(server, content=RED, headers=headers), 504, "deadline_exceeded")
        until(lambda: [server.metric(series) for series in counts] != before)  # noqa: B023
        after = [server.metric(series) for series in counts]
        assert [new - old for new, old in zip(after, before, strict=True)] == expected
    assert not decoding.go.is_set()


def test_a_clients_deadline_is_kept_while_its_body_is_read(inside: Start) -> None:
    with inside(read_timeout_s=3600, timeout_s=3600).connect() as connection:
        connection.sendall(_head(1000, "X-Timeout-Ms: 50"))
        assert connection.recv(65536).startswith(b"HTTP/1.1 504 ")


# A client that disconnects.


def test_a_disconnected_clients_images_are_dropped_and_it_is_counted_as_499(
    inside: Start, decoding: Hold
) -> None:
    server = inside()
    dropped = 'labrador_dropped_total{reason="disconnected"}'
    left = 'labrador_requests_total{code="499",endpoint="classify",model="colours"}'
    before = server.metric(dropped), server.metric(left)
    request = httpx.Request("POST", server.url, files=[("image", RED)] * 5)
    body = request.read()
    with server.connect() as connection:
        connection.sendall(
            _head(len(body), f"Content-Type: {request.headers['content-type']}") + body
        )
        decoding.wait()
    until(lambda: server.metric(left) == before[1] + 1)
    assert server.metric(dropped) == before[0] + 5
    decoding.go.set()
    assert _post(server, content=RED).status_code == 200


def test_a_client_that_disconnects_before_its_body_has_arrived_is_counted_as_499(
    inside: Start,
) -> None:
    server = inside()
    left = 'labrador_requests_total{code="499",endpoint="classify",model=""}'
    before = server.metric(left)
    with server.connect() as connection:
        connection.sendall(_head(1000) + b"x")
    until(lambda: server.metric(left) == before + 1)


# A full queue.


def _threads() -> list[str]:
    """The names of the decoders' and the models' threads."""
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith(("model", "decode"))]


def test_a_full_queue_refuses_before_reading_and_says_when_to_try_again(
    inside: Start, decoding: Hold
) -> None:
    server = inside(max_queue=64)
    colours = np.random.default_rng(0).integers(0, 256, (64, 3)).tolist()
    images = [tiny_models.picture((red, green, blue)) for red, green, blue in colours]
    with ThreadPoolExecutor(1) as pool:
        full = pool.submit(_post, server, files=[("image", image) for image in images])
        decoding.wait()  # all 64 places are taken
        refused = _post(server, content=RED)
        assert _is(refused, 429, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        decoders = [name for name in _threads() if name.startswith("decode")]
        assert len(decoders) == cpu_cores()  # not one for each of the 64 images
        with server.connect() as connection:
            connection.sendall(_head(9))  # its body is never sent, and not waited for
            assert connection.recv(65536).startswith(b"HTTP/1.1 429 ")
        assert _post(server, "/tag", content=RED, headers={"X-Timeout-Ms": "50"}).status_code == 504
        decoding.go.set()
        results = full.result(WITHIN_S).json()["results"]
    assert all("predictions" in result for result in results)
    assert _post(server, content=RED).status_code == 200


@pytest.mark.parametrize(("cores", "decoders"), [(0, min(8, cpu_cores())), (3, 3)])
def test_as_many_images_are_decoded_at_once_as_there_are_cores(
    inside: Start, decoding: Hold, cores: int, decoders: int
) -> None:
    server = inside(cores=cores)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(_post, server, files=[("image", RED)] * 8)
        decoding.wait()
        until(lambda: len([name for name in _threads() if name.startswith("decode")]) == decoders)
        decoding.go.set()
        assert asked.result(WITHIN_S).status_code == 200


# Answers.


def _reference(image: bytes) -> dict[str, float]:
    """Label -> probability, by the independent reference."""
    pixels = preprocess.decode(image, tiny_models.content("any", 1, "single")[0].preprocess)[None]
    return dict(
        zip(
            tiny_models.LABELS,
            tiny_models.reference_scores(pixels, "single")[0].tolist(),
            strict=True,
        )
    )


def test_each_image_of_a_request_has_its_own_result(inside: Start) -> None:
    server = inside()
    refused = 'labrador_rejected_total{reason="image_undecodable"}'
    seen = 'labrador_confidence_count{model="colours"}'
    before = server.metric(refused), server.metric(seen)
    colours = np.random.default_rng(0).integers(0, 256, (40, 3)).tolist()
    images = [tiny_models.picture((red, green, blue)) for red, green, blue in colours]
    images[20:20], images[42:] = [b"no image"], [b""]
    response = _post(server, files=[("image", ("dog.jpg", image)) for image in images])
    assert response.status_code == 200
    results = response.json()["results"]
    assert results.pop(41)["error"]["code"] == "image_missing"
    assert results.pop(20)["error"]["code"] == "image_undecodable"
    del images[41], images[20]
    assert len(results) == 40
    for image, result in zip(images, results, strict=True):
        answer = {p["label"]: p["probability"] for p in result["predictions"]}
        assert answer == pytest.approx(_reference(image), abs=1e-5)
    assert server.metric(refused) == before[0] + 1
    assert server.metric(seen) == before[1] + 40


def test_requests_that_queue_while_the_model_runs_share_its_next_run(
    inferring: Hold, inside: Start
) -> None:
    server = inside()
    names = [f"labrador_batch_size_{kind}" for kind in ("count", "sum")]
    before = [server.metric(name) for name in names]
    images = [tiny_models.picture((200, shade, 30)) for shade in range(0, 160, 20)]
    while inferring.reached.acquire(blocking=False):
        pass  # consume the runs of the golden images
    inferring.go.clear()
    with ThreadPoolExecutor(len(images)) as pool:
        first = pool.submit(_post, server, content=images[0])
        inferring.wait()
        others = [pool.submit(_post, server, content=image) for image in images[1:]]
        until(lambda: server.metric("labrador_queue_images") == len(others))
        inferring.go.set()
        answers = [asked.result(WITHIN_S).json()["predictions"] for asked in (first, *others)]
    for image, answer in zip(images, answers, strict=True):
        answered = {p["label"]: p["probability"] for p in answer}
        assert answered == pytest.approx(_reference(image), abs=1e-5)
    assert [server.metric(name) for name in names] == [before[0] + 2, before[1] + len(images)]


def test_an_unexpected_error_fails_the_whole_request(
    inside: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def decode(image: bytes, *settings: object) -> NDArray[np.uint8]:
        raise RuntimeError("a bug")

    server = inside()
    monkeypatch.setattr(prediction, "decode_with_box", decode)
    assert _is(_post(server, files=[("image", RED)] * 2), 500, "internal")
    assert "RuntimeError, at" in caplog.text  # and not what came of it later


def test_another_bentoml_service_gets_its_answer_as_a_pickle(inside: Start) -> None:
    request = httpx.Request("POST", "http://labrador", files=[("image", RED)])
    headers = {"Content-Type": request.headers["content-type"] + "; answer=pickle"}
    response = _post(inside(), content=request.read(), headers=headers)
    assert response.headers["content-type"] == PICKLE
    answer = pickle.loads(response.content)
    assert answer["model"] == {"name": "colours", "version": "1"}
    assert [found["label"] for found in answer["predictions"]][0] == "red"


def test_every_stage_is_timed_once_where_it_happens(inside: Start) -> None:
    server = inside()
    stages = ("read", "decode", "queue", "infer", "respond")
    models = ("", "colours", "colours", "colours", "colours")  # unknown while reading
    series = [
        f'labrador_stage_seconds_count{{model="{model}",stage="{stage}"}}'
        for stage, model in zip(stages, models, strict=True)
    ]
    series.append('labrador_request_seconds_count{endpoint="classify",model="colours"}')
    before = [server.metric(name) for name in series]
    runs = server.metric('labrador_batch_size_count{model="colours"}')
    _post(server, files=[("image", RED)] * 3)
    runs = server.metric('labrador_batch_size_count{model="colours"}') - runs
    after = [server.metric(name) for name in series]
    assert [new - old for new, old in zip(after, before, strict=True)] == [1, 3, 3, runs, 1, 1]


def test_each_path_has_its_own_parameters(inside: Start) -> None:
    server = inside()
    answer = _post(server, "/classify?top_k=1&model=colours", content=RED).json()
    assert answer["model"] == {"name": "colours", "version": "1"}
    assert [found["label"] for found in answer["predictions"]] == ["red"]
    tags = _post(server, "/tag?model=tags", content=RED).json()["tags"]
    assert [(tag["label"], tag["threshold"]) for tag in tags] == [("red", 0.5)]
    tags = _post(server, "/tag?threshold=0", content=RED).json()["tags"]
    assert sorted(tag["label"] for tag in tags) == sorted(tiny_models.LABELS)
    for path, own in (("/classify", "top_k, alpha, coverage"), ("/tag", "threshold, alpha")):
        refused = _post(server, f"{path}?size=3", content=RED).json()["detail"]
        assert refused == f"unknown parameter 'size'; valid: model, {own}, maps"
    for text, asked in (("top_k='few'", "a whole number"), ("threshold='low'", "a number")):
        path = "/classify" if text.startswith("top_k") else "/tag"
        refused = _post(server, f"{path}?{text.replace(chr(39), '')}", content=RED).json()["detail"]
        assert refused == f"{text}: use {asked}"


def test_a_bad_parameter_is_refused_before_any_work(inside: Start, decoding: Hold) -> None:
    server = inside()
    for path in ("/classify?top_k=9", "/tag?threshold=2", "/tag?alpha=0.1"):
        assert _is(_post(server, path, content=RED), 400, "bad_parameter")
    assert not decoding.reached.acquire(blocking=False)


def test_without_top_k_the_top_five_labels_are_answered(store: Path) -> None:
    labels = tuple("abcdefg")
    manifest = read_manifest(store / "colours" / "1").model_copy(update={"labels": labels})
    scores = np.arange(7, dtype=np.float32)
    assert TOP_K == 5
    assert [found.label for found in prediction.decision_of({}, manifest)(scores)] == list("gfedc")


# Metrics and shutdown.


def test_no_text_from_a_client_becomes_a_metrics_label(inside: Start) -> None:
    server = inside()
    text = "n0b0dys-m0del"
    assert _post(server, f"/classify?model={text}", content=RED).status_code == 404
    form = {"data": {"model": text}, "files": {"image": RED}}
    assert _post(server, "/tag", **form).status_code == 404
    assert _post(server, f"/classify?model={text}", content=b"").status_code == 400
    assert _post(server, f"/{text}", content=RED).status_code == 404
    assert text not in get(f"{server.url}/metrics").text


def test_no_thread_is_left_after_shutdown(metrics_folder: Path, store: Path) -> None:
    with run_inside(metrics_folder, model_store=store, device="cpu") as server:
        _post(server, content=RED)
        assert len(_threads()) >= 2
    assert _threads() == []


def test_scores_that_are_not_finite_are_an_error_of_their_image_alone(
    inside: Start, tmp_path: Path
) -> None:
    model = tiny_models.network("single", nan_for_black=True)
    tiny_models.add(tmp_path, "fragile", "single", model=model)
    server = inside(model_store=tmp_path)
    black = tiny_models.picture((0, 0, 0))
    alone = _post(server, content=black)
    assert _is(alone, 500, "model_failed")
    assert "fragile failed on this image" in alone.json()["detail"]
    both = _post(server, files=[("image", black), ("image", RED)]).json()["results"]
    assert both[0]["error"]["code"] == "model_failed"
    assert both[1]["predictions"][0]["label"] == "red"
    file = tmp_path / "black.jpg"
    file.write_bytes(black)
    with pytest.raises(ModelFailed):
        Local(Settings(model_store=tmp_path, device="cpu")).answer("single", file, {})
