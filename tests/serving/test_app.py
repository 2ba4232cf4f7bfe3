"""Requests to a running server: its answers and its errors."""

import io
import os
import re
import socket
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from models import bundle
from models.manifest import MODEL_FILE, Manifest
from models.preprocess import decode
from models.store import Store
from serving.hardware import gpus
from testkit import tiny_models
from testkit.in_process import Inside
from testkit.odd_images import encoded, heic
from testkit.servers import Server, get, post
from testkit.waiting import until

RED = tiny_models.picture((200, 30, 30))
PREPROCESS = tiny_models.content("any", 1, "single")[0].preprocess
MIB = 2**20


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


def _scores(image: bytes, task: str) -> dict[str, float]:
    """Label -> score, by the independent reference."""
    pixels = decode(image, PREPROCESS)[None]
    scores = tiny_models.reference_scores(pixels, "single" if task == "single" else "multi")[0]
    return dict(zip(tiny_models.LABELS, scores.tolist(), strict=True))


def _problem(response: httpx.Response, status: int, code: str) -> str:
    """Check that the response is this problem and return its detail."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    problem = response.json()
    assert (response.status_code, problem["status"], problem["code"]) == (status, status, code)
    assert set(problem) == {"type", "title", "status", "detail", "code"}
    return str(problem["detail"])


def _bomb_png(width: int, height: int) -> bytes:
    """A PNG whose header claims this many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _gif() -> bytes:
    buffer = io.BytesIO()
    Image.new("P", (8, 8)).save(buffer, "GIF")
    return buffer.getvalue()


# Answers.


@pytest.mark.parametrize("kind", ["image/jpeg", "application/octet-stream", "image/png", "text/x"])
def test_classify_answers_the_most_likely_labels_of_a_raw_body(
    client: httpx.Client, kind: str
) -> None:
    answer = client.post("/classify", content=RED, headers={"Content-Type": kind}).json()
    assert answer["model"] == {"name": "colours", "version": "1"}
    expected = sorted(_scores(RED, "single").items(), key=lambda item: -item[1])
    assert [p["label"] for p in answer["predictions"]] == [label for label, _ in expected]
    assert [p["probability"] for p in answer["predictions"]] == pytest.approx(
        [score for _, score in expected], abs=1e-5
    )


def test_tag_answers_every_label_above_its_threshold(client: httpx.Client) -> None:
    answer = client.post("/tag", files={"image": RED}).json()
    assert answer["model"] == {"name": "tags", "version": "1"}
    (tag,) = answer["tags"]
    assert (tag["label"], tag["threshold"]) == ("red", 0.5)
    assert tag["probability"] == pytest.approx(_scores(RED, "multi")["red"], abs=1e-5)


def test_parameters_come_by_query_or_as_form_fields(client: httpx.Client) -> None:
    for answer in (
        client.post("/classify?top_k=1&model=colours", content=RED),
        client.post("/classify", files={"image": RED}, data={"top_k": "1", "model": '"colours"'}),
    ):
        assert len(answer.json()["predictions"]) == 1
    answer = client.post("/tag?threshold=0", files={"image": RED})
    assert [tag["threshold"] for tag in answer.json()["tags"]] == [0, 0, 0]


def test_concurrent_requests_get_their_own_answers(server: Server, client: httpx.Client) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (120, 3)).tolist()
    images = [tiny_models.picture((red, green, blue)) for red, green, blue in colours]
    ran = server.metric("labrador_batch_size_sum")

    def ask(image: bytes) -> dict[str, float]:
        answer = client.post("/classify", content=image).json()
        return {p["label"]: p["probability"] for p in answer["predictions"]}

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, images))
    for image, answer in zip(images, answers, strict=True):
        assert answer == pytest.approx(_scores(image, "single"), abs=1e-5)
    assert server.metric("labrador_batch_size_sum") == ran + 120


def test_models_say_what_they_are_and_where_they_run(client: httpx.Client) -> None:
    models = client.get("/models").json()["models"]
    assert [(m["name"], m["version"], m["task"]) for m in models] == [
        ("colours", "1", "single"),
        ("tags", "1", "multi"),
    ]
    assert models[0]["labels"] == list(tiny_models.LABELS)
    assert models[0]["provider"].endswith("ExecutionProvider")
    assert models[0]["precision"] == "fp32"
    assert len(models[0]["sha256"]) == 64
    assert models[0]["metrics"]["accuracy"] == {"value": 0.9, "low": 0.8, "high": 0.95}
    assert models[0]["metrics_of"] == "fp32"


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_the_figures_are_those_of_the_form_that_is_served(
    inside: Callable[..., Inside], tmp_path: Path, precision: str
) -> None:
    int8 = tiny_models.network("single", tiny_models.WEIGHTS * 1.01)
    slow = tiny_models.network("single", slow=16)
    path = tiny_models.add(tmp_path, "small", "single", slow, int8=int8)
    manifest = bundle.read_manifest(path)
    served = inside(model_store=tmp_path, precision=precision)
    (ready,) = get(f"{served.url}/readyz").json()["models"]
    (model,) = get(f"{served.url}/models").json()["models"]
    if precision == "auto":
        why, form, metrics = ready["why"], "int8", tiny_models.INT8_METRICS
        assert re.match(r"auto: int8 answers \d+\.\d\d times as many images a second", why)
    else:
        why, form, metrics = "LABRADOR_PRECISION=fp32", "fp32", manifest.metrics
    expected = {
        "name": "small",
        "version": "1",
        "provider": "CPUExecutionProvider",
        "precision": form,
        "why": why,
        "metrics_of": form,
        "metrics": {name: metric.model_dump() for name, metric in metrics.items()},
    }
    assert ready == expected
    assert expected.items() <= model.items()
    assert model["gate"] == {"images": 0, "decisions": None, "flips": 0, "max_difference": 0}
    timed = {(speed["precision"], speed["batch"]): speed for speed in model["timed"]}
    both = [("fp32", 1), ("fp32", 8), ("int8", 1), ("int8", 8)]
    assert sorted(timed) == (both if precision == "auto" else [])
    text = get(f"{served.url}/metrics").text
    series = 'labrador_variant_images_per_second{batch="%s",model="small",precision="%s",'
    for (named, batch), speed in timed.items():
        (line,) = [one for one in text.splitlines() if one.startswith(series % (batch, named))]
        assert float(line.split()[-1]) == pytest.approx(speed["images_per_second"])
    assert text.count("\nlabrador_variant_images_per_second{") == len(timed)
    paths = get(f"{served.url}/openapi.json").json()["paths"]
    for name, one in (("/models", model), ("/readyz", ready)):
        answer = paths[name]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert set(answer["properties"]["models"]["items"]["required"]) == set(one)


def test_an_older_bundle_s_metrics_are_said_to_be_those_of_fp32(
    inside: Callable[..., Inside], tmp_path: Path
) -> None:
    def older(version: int) -> tuple[Manifest, dict[str, bytes]]:
        int8 = tiny_models.network("single", tiny_models.WEIGHTS * 1.01)
        slow = tiny_models.network("single", slow=16)
        manifest, files = tiny_models.content("old", version, "single", slow, int8=int8)
        fp32, small = manifest.variants
        small = small.model_copy(update={"gate": fp32.gate.model_copy(update={"tolerance": 0.25})})
        return manifest.model_copy(update={"variants": (fp32, small)}), files

    Store(tmp_path).add("old", older)
    served = inside(model_store=tmp_path)
    for path in ("/models", "/readyz"):
        (model,) = get(f"{served.url}{path}").json()["models"]
        assert (model["precision"], model["metrics_of"]) == ("int8", "fp32")
        assert model["metrics"] == {"accuracy": {"value": 0.9, "low": 0.8, "high": 0.95}}


def test_probes_answer(client: httpx.Client) -> None:
    assert client.get("/livez").json() == {"status": "live"}
    ready = client.get("/readyz").json()
    assert ready["status"] == "ready"
    assert ready["models"][1]["name"] == "tags"
    assert client.head("/readyz").status_code == 200


# Errors.


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("/classify?top_k=0", "top_k=0: use 1 to 3"),
        ("/classify?top_k=4", "top_k=4: use 1 to 3"),
        ("/classify?top_k=five", "top_k='five'"),
        ("/classify?top_k=1&top_k=2", "given twice"),
        ("/classify?threshold=0.5", "'threshold'; valid: model, top_k"),
        ("/classify?model=tags", "use /tag"),
        ("/tag?threshold=1.5", "threshold=1.5: use a number from 0 to 1"),
        ("/tag?threshold=nan", "threshold=nan"),
        ("/tag?top_k=1", "'top_k'; valid: model, threshold"),
    ],
)
def test_a_bad_parameter_is_named_with_the_valid_choices(
    client: httpx.Client, path: str, detail: str
) -> None:
    assert detail in _problem(client.post(path, content=RED), 400, "bad_parameter")


def test_a_bad_parameter_refuses_the_whole_batch(client: httpx.Client) -> None:
    response = client.post("/classify?top_k=9", files=[("image", RED), ("image", RED)])
    _problem(response, 400, "bad_parameter")


def test_a_malformed_timeout_is_a_bad_parameter(client: httpx.Client) -> None:
    response = client.post("/classify", content=RED, headers={"X-Timeout-Ms": "soon"})
    assert "X-Timeout-Ms" in _problem(response, 400, "bad_parameter")


@pytest.mark.parametrize(
    ("image", "status", "code"),
    [
        (b"", 400, "image_missing"),
        (_gif(), 415, "format_unsupported"),
        (b"this is text", 422, "image_undecodable"),
        (b"http://169.254.169.254/latest/meta-data", 422, "image_undecodable"),
        (RED[: len(RED) // 2], 422, "image_undecodable"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, 422, "image_undecodable"),
        (b"\0" * MIB, 422, "image_undecodable"),
        (_bomb_png(30_000, 30_000), 422, "image_too_large"),
        (_bomb_png(5_001, 5_000), 422, "image_too_large"),
    ],
)
@pytest.mark.parametrize("form", [False, True], ids=["raw", "multipart"])
def test_a_body_that_is_not_an_image_is_refused(
    client: httpx.Client, image: bytes, status: int, code: str, form: bool
) -> None:
    for path in ("/classify", "/tag"):
        if form:
            response = client.post(path, files={"image": ("dog.jpg", image, "image/jpeg")})
        else:
            response = client.post(path, content=image, headers={"Content-Type": "image/jpeg"})
        _problem(response, status, code)


def test_a_form_without_an_image_part_is_refused(client: httpx.Client) -> None:
    response = client.post("/classify", files={"file": ("dog.jpg", RED)})
    assert "parts named image" in _problem(response, 400, "image_missing")


def test_an_unknown_form_field_is_a_bad_parameter(client: httpx.Client) -> None:
    response = client.post("/classify", files={"image": RED}, data={"topk": "3"})
    assert "'topk'; valid: model, top_k" in _problem(response, 400, "bad_parameter")


def test_a_url_in_place_of_an_image_is_never_fetched(client: httpx.Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.5)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/dog.jpg"
        form = {"image": (None, url)}
        _problem(client.post("/classify", files=form), 422, "image_undecodable")
        _problem(client.post("/classify", data={"image": url}), 422, "image_undecodable")
        with pytest.raises(TimeoutError):
            listener.accept()


def test_an_unknown_model_is_not_found(client: httpx.Client) -> None:
    response = client.post("/classify?model=pets", content=RED)
    assert "'pets'; valid: colours" in _problem(response, 404, "model_unknown")


@pytest.mark.parametrize(
    "path", ["/nope", "/page/", "/classify/", "/docs.json", "/healthz", "/docs2"]
)
def test_an_undeclared_path_is_not_found(client: httpx.Client, path: str) -> None:
    assert "/classify" in _problem(client.get(path), 404, "not_found")
    assert "/classify" in _problem(client.post(path, content=RED), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/classify", {"POST"}),
        ("PUT", "/tag", {"POST"}),
        ("OPTIONS", "/classify", {"POST"}),
        ("POST", "/models", {"GET", "HEAD"}),
        ("DELETE", "/readyz", {"GET", "HEAD"}),
    ],
)
def test_a_wrong_method_is_refused_with_the_allowed_ones(
    client: httpx.Client, method: str, path: str, allow: set[str]
) -> None:
    response = client.request(method, path)
    _problem(response, 405, "method_not_allowed")
    assert set(response.headers["allow"].split(", ")) == allow


def test_a_body_that_announces_too_large_a_size_is_refused(client: httpx.Client) -> None:
    response = client.post("/classify", content=bytes(11 * MIB))
    assert "10 MiB" in _problem(response, 413, "body_too_large")


def test_a_chunked_body_is_limited_and_memory_does_not_grow(
    server: Server, client: httpx.Client
) -> None:
    def memory_mib() -> int:
        pages = Path(f"/proc/{server.worker()}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE") // MIB

    def refuse() -> None:
        chunks = (bytes(MIB // 4) for _ in range(44))
        _problem(client.post("/classify", content=chunks), 413, "body_too_large")

    refuse()
    before_mib = memory_mib()
    for _ in range(20):
        refuse()
    assert memory_mib() < before_mib + 30


def test_65_images_are_too_many(client: httpx.Client) -> None:
    images = [("image", ("dog.jpg", RED))]
    assert len(client.post("/classify", files=images * 64).json()["results"]) == 64
    _problem(client.post("/classify", files=images * 65), 413, "too_many_images")


@pytest.mark.parametrize("form", ["HEIC", "AVIF"])
def test_a_photo_as_phones_save_it_is_refused_with_what_to_do(
    client: httpx.Client, form: str
) -> None:
    red = Image.open(io.BytesIO(RED))
    photo = heic(red) if form == "HEIC" else encoded(red, "AVIF")
    detail = _problem(client.post("/classify", content=photo), 415, "format_unsupported")
    assert detail.startswith(f"the image is {form}; convert it to JPEG first")


def test_hostile_bytes_never_cause_an_internal_error(server: Server, client: httpx.Client) -> None:
    random = np.random.default_rng(0)
    failures = server.metric('labrador_rejected_total{reason="internal"}')
    for image in (RED, _converted("PNG"), _converted("WEBP")):
        for _ in range(25):
            broken = bytearray(image)
            for place in random.integers(0, len(broken), 1 + len(broken) // 100):
                broken[place] = random.integers(0, 256)
            cut = bytes(broken[: random.integers(1, len(broken) + 1)])
            assert client.post("/classify", content=cut).status_code in (200, 415, 422)
    assert server.metric('labrador_rejected_total{reason="internal"}') == failures
    assert client.get("/readyz").status_code == 200


def _converted(image_format: str) -> bytes:
    """The red image in another format."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(RED)).save(buffer, image_format)
    return buffer.getvalue()


# Not ready.


def _reason(server: Inside) -> str:
    """Why /readyz answers 503; /livez must answer 200, and predictions must be refused."""
    until(lambda: get(f"{server.url}/readyz").json()["detail"] != "loading")
    assert get(f"{server.url}/livez").status_code == 200
    for path in ("classify", "tag"):
        _problem(post(f"{server.url}/{path}", content=RED), 503, "not_ready")
    return _problem(get(f"{server.url}/readyz"), 503, "not_ready")


def test_a_corrupt_bundle_is_named_and_the_server_stays_up(
    inside: Callable[..., Inside], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_models.add(tmp_path, "corrupt", "single") / MODEL_FILE
    model.write_bytes(model.read_bytes() + b"\0")
    server = inside(ready=False, model_store=tmp_path)
    assert "corrupt/1/model.onnx is corrupt" in _reason(server)
    assert 'labrador_model_ready{model="corrupt"} 0.0' in get(f"{server.url}/metrics").text
    assert "corrupt/1 cannot be served: BundleError: " in caplog.text


@pytest.mark.skipif(gpus() > 0, reason="there is a GPU")
def test_cuda_without_a_gpu_is_not_ready(inside: Callable[..., Inside]) -> None:
    assert "no GPU" in _reason(inside(ready=False, device="cuda"))


# Metrics and logs.


def test_every_request_is_counted_once_and_undeclared_paths_share_one_series(
    server: Server, client: httpx.Client
) -> None:
    answered = 'labrador_requests_total{code="200",endpoint="classify",model="colours"}'
    refused = 'labrador_requests_total{code="422",endpoint="classify",model="colours"}'
    strange = 'labrador_requests_total{code="404",endpoint="other",model=""}'
    red = 'labrador_predictions_total{label="red",model="colours"}'
    before = [server.metric(series) for series in (answered, refused, strange, red)]
    for number in range(5):
        client.post("/classify", content=RED)
        client.post("/classify", content=b"text")
        client.get(f"/{number}")
    after = [server.metric(series) for series in (answered, refused, strange, red)]
    assert [new - old for new, old in zip(after, before, strict=True)] == [5, 5, 5, 5]


def test_the_log_has_no_text_from_a_client(server: Server, client: httpx.Client) -> None:
    secret = "n0b0dy-sh0uld-l0g-this"
    client.post(f"/{secret}", content=secret)
    client.post(f"/classify?{secret}={secret}", content=secret)
    client.post(f"/classify?model={secret}", content=RED)
    client.post("/classify", content=secret, headers={"X-Timeout-Ms": secret})
    body = f"--{secret}\r\n{secret}"
    kind = f"multipart/form-data; boundary={secret}"
    client.post("/classify", content=body, headers={"Content-Type": kind})
    assert secret not in server.log()


def test_metrics_have_no_series_for_an_unknown_path(server: Server, client: httpx.Client) -> None:
    threads = [
        threading.Thread(target=client.get, args=(f"/strange-{number}",)) for number in range(50)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    text = client.get("/metrics").text
    assert "strange" not in text
    assert len(text) < 100_000


def test_a_request_without_host_is_refused(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(b"GET /livez HTTP/1.1\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"needs a Host header" in answer
