"""The Open Inference Protocol, spoken by Triton's own client and by hand."""

import base64
import json
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from models.preprocess import decode_with_box
from serving.open_inference.request import VALUES_MAX
from testkit import mapped_models, novel_models, tiny_models
from testkit.in_process import Hold, Inside
from testkit.json_schema import problem
from testkit.servers import Server, get, post, serve
from testkit.waiting import WITHIN_S, until

RED, GREEN = tiny_models.picture((200, 30, 30)), tiny_models.picture((30, 200, 30))
SIZE = tiny_models.SIZE_PX
PREPROCESS = tiny_models.content("any", 1, "single")[0].preprocess
LENGTH = "Inference-Header-Content-Length"
INFER = "/v2/models/plain/infer"
# What the specification's open_inference_rest.yaml requires of its objects.
REQUIRED = {
    "metadata_server_response": {"name", "version", "extensions"},
    "metadata_model_response": {"name", "platform"},
    "metadata_tensor": {"name", "datatype", "shape"},
    "inference_response": {"model_name", "outputs"},
    "response_output": {"name", "shape", "datatype", "data"},
    "inference_error_response": {"error"},
}


@pytest.fixture(scope="module")
def speaking(tmp_path_factory: pytest.TempPathFactory, mapped: Path) -> Iterator[Server]:
    """A server with `colours` and `tags`, which have maps, and `plain`, which has none."""
    with serve(tmp_path_factory.mktemp("speaking"), model_store=mapped) as running:
        yield running


@pytest.fixture(scope="module")
def client(speaking: Server) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(speaking.url.removeprefix("http://"))
    yield client
    client.close()


def _pixels(*images: bytes) -> NDArray[np.uint8]:
    return np.stack([decode_with_box(image, PREPROCESS)[0] for image in images])


def _input(*images: bytes, pixels: bool = False, binary: bool = True) -> Any:
    """One input of Triton's client."""
    if pixels:
        values: NDArray[Any] = _pixels(*images)
    elif binary:
        values = np.array(images, np.object_)
    else:
        values = np.array([base64.b64encode(image) for image in images], np.object_)
    tensor = triton.InferInput(
        "pixels" if pixels else "image", list(values.shape), "UINT8" if pixels else "BYTES"
    )
    return tensor.set_data_from_numpy(values, binary_data=binary)


def _scores(*images: bytes, task: str = "single") -> NDArray[np.float32]:
    kind = "single" if task == "single" else "multi"
    return tiny_models.reference_scores(_pixels(*images), kind)  # type: ignore[arg-type]


# What the server says of itself.


def test_triton_s_client_sees_what_is_served_and_ready(
    client: triton.InferenceServerClient,
) -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("tags") and client.is_model_ready("tags", "1")
    assert not client.is_model_ready("tags", "2") and not client.is_model_ready("nope")
    server = client.get_server_metadata()
    assert set(server) >= REQUIRED["metadata_server_response"]
    assert server["extensions"] == ["binary_tensor_data", "classification"]


def test_a_model_s_metadata_has_its_inputs_and_outputs(
    client: triton.InferenceServerClient,
) -> None:
    metadata = client.get_model_metadata("plain", "1")
    assert set(metadata) >= REQUIRED["metadata_model_response"]
    assert (metadata["name"], metadata["versions"]) == ("plain", ["1"])
    tensors = {tensor["name"]: tensor for tensor in metadata["inputs"] + metadata["outputs"]}
    assert all(set(tensor) == REQUIRED["metadata_tensor"] for tensor in tensors.values())
    assert {name: (t["datatype"], t["shape"]) for name, t in tensors.items()} == {
        "image": ("BYTES", [-1]),
        "pixels": ("UINT8", [-1, SIZE, SIZE, 3]),
        "scores": ("FP32", [-1, 3]),
        "labels": ("BYTES", [-1, 1]),
    }
    mapped = client.get_model_metadata("tags")["outputs"]
    assert [tensor["name"] for tensor in mapped] == ["scores", "labels", "maps", "boxes"]


# Answers.


@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("pixels", [True, False])
def test_every_form_of_request_and_answer_has_the_reference_s_scores(
    client: triton.InferenceServerClient, pixels: bool, binary: bool, binary_out: bool
) -> None:
    outputs = [
        triton.InferRequestedOutput(name, binary_data=binary_out) for name in ("labels", "scores")
    ]
    tensor = _input(RED, GREEN, pixels=pixels, binary=binary)
    answer = client.infer("plain", [tensor], outputs=outputs, request_id="a 1")
    assert answer.as_numpy("scores") == pytest.approx(_scores(RED, GREEN), abs=1e-5)
    labels = [
        [str(label, "utf-8") if isinstance(label, bytes) else label for label in row]
        for row in answer.as_numpy("labels")
    ]
    assert labels == [["red"], ["green"]]
    described = answer.get_response()
    assert [output["name"] for output in described["outputs"]] == ["labels", "scores"]
    assert (described["model_name"], described["model_version"]) == ("plain", "1")
    assert described["id"] == "a 1"


def test_without_requested_outputs_there_are_scores_and_labels(
    client: triton.InferenceServerClient,
) -> None:
    answer = client.infer("colours", [_input(RED)])  # Triton's client then asks for binary data
    outputs = answer.get_response()["outputs"]
    assert [output["name"] for output in outputs] == ["scores", "labels"]
    assert all("data" not in output for output in outputs)


def test_the_tags_of_each_image_are_padded_with_empty_strings(
    client: triton.InferenceServerClient,
) -> None:
    grey, both = tiny_models.picture((90, 90, 90)), tiny_models.picture((200, 200, 20))
    answer = client.infer("tags", [_input(grey, RED, both)])
    scores = answer.as_numpy("scores")
    rows = answer.as_numpy("labels").tolist()
    thresholds = [0.5, 0.5, 0.5]
    above = [[i for i in np.argsort(-row) if row[i] >= thresholds[i]] for row in scores]
    width = max(map(len, above))
    expected = [[tiny_models.LABELS[i] for i in row] + [""] * (width - len(row)) for row in above]
    assert [[str(label, "utf-8") for label in row] for row in rows] == expected
    assert len({len(row) for row in above}) > 1  # or nothing was padded


def test_maps_come_where_they_are_asked_for_and_cover_their_boxes(
    client: triton.InferenceServerClient, speaking: Server
) -> None:
    outputs = [triton.InferRequestedOutput(name) for name in ("maps", "boxes")]
    answer = client.infer("colours", [_input(RED, GREEN)], outputs=outputs)
    maps = answer.as_numpy("maps")
    assert maps == pytest.approx(mapped_models.reference_maps(_pixels(RED, GREEN)), abs=1e-4)
    over_http = post(f"{speaking.url}/classify?model=colours&maps=true", content=RED).json()
    assert answer.as_numpy("boxes")[0] == pytest.approx(over_http["box"])
    same = client.infer("colours", [_input(RED, GREEN, pixels=True)], outputs=outputs)
    assert same.as_numpy("maps") == pytest.approx(maps, abs=1e-4)
    assert same.as_numpy("boxes").tolist() == [[0, 0, 1, 1]] * 2


@pytest.mark.parametrize("binary", [True, False])
def test_p_values_and_what_is_unknown_are_those_of_classify(
    inside: Callable[..., Inside], tmp_path: Path, binary: bool
) -> None:
    novel_models.add(tmp_path, "strange", "single")
    server = inside(model_store=tmp_path)
    images = [RED, tiny_models.picture((128, 128, 128))]
    expected = [post(f"{server.url}/classify", content=image).json()["novelty"] for image in images]
    assert len({found["unknown"] for found in expected}) == 2
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
        described = {
            tensor["name"]: (tensor["datatype"], tensor["shape"])
            for tensor in client.get_model_metadata("strange")["outputs"]
        }
        names = ("p_value", "unknown")
        outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in names]
        answer = client.infer("strange", [_input(*images)], outputs=outputs)
    assert (described["p_value"], described["unknown"]) == (("FP64", [-1]), ("BOOL", [-1]))
    for name in names:
        assert answer.as_numpy(name).tolist() == [found[name] for found in expected]
    assert [output["datatype"] for output in answer.get_response()["outputs"]] == ["FP64", "BOOL"]


def test_a_classification_names_the_best_labels(client: triton.InferenceServerClient) -> None:
    outputs = [triton.InferRequestedOutput("scores", class_count=2)]
    answer = client.infer("plain", [_input(RED, GREEN)], outputs=outputs)
    rows = [[str(text, "utf-8") for text in row] for row in answer.as_numpy("scores")]
    scores = _scores(RED, GREEN)
    for row, own in zip(rows, scores, strict=True):
        best = np.argsort(-own, kind="stable")[:2]
        assert [text.split(":")[1:] for text in row] == [
            [str(index), tiny_models.LABELS[index]] for index in best
        ]
        assert [float(text.split(":")[0]) for text in row] == pytest.approx(own[best], abs=1e-5)


def test_an_answer_in_json_has_the_specification_s_fields(speaking: Server) -> None:
    answer = post(f"{speaking.url}{INFER}", json=_request()).json()
    assert set(answer) >= REQUIRED["inference_response"]
    assert all(set(output) >= REQUIRED["response_output"] for output in answer["outputs"])


def test_answers_and_requests_are_as_the_server_s_own_document_says(speaking: Server) -> None:
    document = get(f"{speaking.url}/openapi.json").json()

    def check(path: str, method: str, answer: httpx.Response) -> None:
        responses = document["paths"][path][method]["responses"]
        response = responses.get(str(answer.status_code)) or responses["default"]
        schema = response["content"]["application/json"]["schema"]
        assert problem(answer.json(), schema) is None

    model = "/v2/models/{name}/versions/{version}"
    actual = model.format(name="plain", version="1")
    for path, url in (
        ("/v2", "/v2"),
        ("/v2/health/live", "/v2/health/live"),
        ("/v2/health/ready", "/v2/health/ready"),
        (model, actual),
        (f"{model}/ready", f"{actual}/ready"),
        (model, actual.replace("plain", "nope")),
    ):
        check(path, "get", get(speaking.url + url))
    check(f"{model}/infer", "post", post(f"{speaking.url}{actual}/infer", json=_request()))
    check(f"{model}/infer", "post", post(f"{speaking.url}{actual}/infer", content=b"{"))
    operation = document["paths"][f"{model}/infer"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    whole = schema | {"components": document["components"]}
    assert problem(_request(), whole) is None
    assert problem(_request(shape=["1"]), whole)


def test_what_kserve_s_client_adds_to_a_request_is_taken(speaking: Server) -> None:
    additions: tuple[dict[str, Any], ...] = (
        {"model_name": "plain", "model_version": None, "id": None, "parameters": {}},
        {"model_name": "plain", "model_version": "1", "outputs": []},
    )
    for added in additions:
        answer = post(f"{speaking.url}{INFER}", json=_request() | added)
        assert answer.status_code == 200, answer.text


# Limits, shared with all other requests.


def test_requests_are_counted_under_one_name_whatever_their_path(speaking: Server) -> None:
    answered = 'labrador_requests_total{code="200",endpoint="infer",model="plain"}'
    failed = 'labrador_requests_total{code="404",endpoint="infer",model=""}'
    red = 'labrador_predictions_total{label="red",model="plain"}'
    before = [speaking.metric(series) for series in (answered, failed, red)]
    for path in ("plain", "plain/versions/1", "nope", "plain/versions/9"):
        post(f"{speaking.url}/v2/models/{path}/infer", json=_request())
    after = [speaking.metric(series) for series in (answered, failed, red)]
    assert [new - old for new, old in zip(after, before, strict=True)] == [2, 2, 2]
    assert "nope" not in get(f"{speaking.url}/metrics").text


def test_unknown_images_are_counted_here_too(inside: Callable[..., Inside], tmp_path: Path) -> None:
    novel_models.add(tmp_path, "strange", "single")
    server = inside(model_store=tmp_path)
    series = [
        f'labrador_{name}{{model="strange"}}' for name in ("unknown_total", "confidence_count")
    ]
    before = [server.metric(each) for each in series]
    response = post(f"{server.url}/v2/models/strange/infer", json=_request())
    assert response.status_code == 200
    assert [server.metric(each) for each in series] == [value + 1 for value in before]


def test_a_key_is_required_where_keys_are(
    inside: Callable[..., Inside], mapped: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("s3cret\n")
    server = inside(model_store=mapped, api_keys_file=keys)
    for answer in (post(server.url + INFER, json=_request()), get(f"{server.url}/v2/models/plain")):
        assert answer.status_code == 401
        assert answer.json()["error"].startswith("unauthorized: ")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    header = {"Authorization": "Bearer s3cret"}
    assert post(server.url + INFER, json=_request(), headers=header).status_code == 200
    assert get(f"{server.url}/v2/health/ready").status_code == 200


def test_the_deadline_and_the_body_are_limited(
    inside: Callable[..., Inside], mapped: Path, inferring: Hold
) -> None:
    server = inside(model_store=mapped, max_body_mb=0.1)
    inferring.go.clear()
    try:
        body, headers = _binary(_pixels(*[RED] * 64), {"X-Timeout-Ms": "400"})
        late = post(server.url + INFER, content=body, headers=headers, timeout=WITHIN_S)
        assert late.status_code == 504
        assert late.json()["error"].startswith("deadline_exceeded: ")
        too_large = post(server.url + INFER, content=bytes(200_000))
        assert (too_large.status_code, too_large.json()["error"][:15]) == (413, "body_too_large:")
    finally:
        inferring.go.set()


def test_a_full_queue_refuses_with_when_to_try_again(
    inside: Callable[..., Inside], mapped: Path, inferring: Hold
) -> None:
    server = inside(model_store=mapped, max_queue=64)
    inferring.go.clear()
    body, headers = _binary(_pixels(*[RED] * 64))
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, server.url + INFER, content=body, headers=headers, timeout=60)
        try:
            until(lambda: server.metric('labrador_held_images{model="plain"}') == 64)
            refused = post(server.url + INFER, content=b"never read", timeout=WITHIN_S)
        finally:
            inferring.go.set()
        assert first.result().status_code == 200
    assert (refused.status_code, refused.json()["error"][:11]) == (429, "overloaded:")
    assert int(refused.headers["Retry-After"]) >= 1


# Malformed requests.


def _request(**changes: Any) -> dict[str, Any]:
    """A good request in JSON, with these changes to its input."""
    image = base64.b64encode(RED).decode()
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [image]} | changes
    return {"inputs": [{name: value for name, value in tensor.items() if value is not ...}]}


def _with(**changes: Any) -> bytes:
    return json.dumps(_request(**changes)).encode()


def _pixel(**changes: Any) -> bytes:
    values = {"name": "pixels", "datatype": "UINT8", "shape": [1, SIZE, SIZE, 3]}
    return _with(**{**values, "data": [7] * (SIZE * SIZE * 3), **changes})


def _beside(**changes: Any) -> bytes:
    return json.dumps(_request() | changes).encode()


def _binary(
    pixels: NDArray[np.uint8], headers: dict[str, str] | None = None
) -> tuple[bytes, dict[str, str]]:
    """A good request with a binary tensor, and its headers."""
    parameters = {"binary_data_size": pixels.nbytes}
    text = _pixel(shape=list(pixels.shape), data=..., parameters=parameters)
    return text + pixels.tobytes(), {LENGTH: str(len(text)), **(headers or {})}


def _sized(
    size: object, data: bytes, shape: object = (1,), name: str = "image", **changes: Any
) -> tuple[bytes, dict[str, str]]:
    """A request that says that its binary data have a size, and has these data."""
    text = _with(
        name=name,
        shape=list(shape),  # type: ignore[call-overload]
        datatype="BYTES" if name == "image" else "UINT8",
        data=...,
        parameters={"binary_data_size": size},
        **changes,
    )
    return text + data, {LENGTH: str(len(text))}


def _both() -> tuple[bytes, dict[str, str]]:
    """A request with an image in the JSON, and a size."""
    text = _with(parameters={"binary_data_size": len(IMAGE)})
    return text + IMAGE, {LENGTH: str(len(text))}


def _element(image: bytes, length: int | None = None) -> bytes:
    return struct.pack("<I", len(image) if length is None else length) + image


IMAGE = _element(RED)
PIXELS = bytes(SIZE * SIZE * 3)
Body = bytes | tuple[bytes, dict[str, str]]
HUGE = 10**4000

MALFORMED: dict[str, tuple[Body, str]] = {
    "empty": (b"", "bad_parameter"),
    "not JSON": (b"\xff\xd8", "bad_parameter"),
    "cut off": (_with()[:-1], "bad_parameter"),
    "more after the JSON": (_with() + b"x", "bad_parameter"),
    "a list": (b"[]", "bad_parameter"),
    "null": (b"null", "bad_parameter"),
    "nested too deeply": (b"[" * 100_000, "bad_parameter"),
    "nested data": (_with(data=json.loads("[" * 150 + "]" * 150)), "bad_parameter"),
    "too many values": (_with(data=[0] * VALUES_MAX), "body_too_large"),
    "too many objects": (b"[" + b"{}," * (VALUES_MAX // 2) + b"{}]", "body_too_large"),
    "too many lists": (b"[" + b"[]," * (VALUES_MAX // 2) + b"[]]", "body_too_large"),
    "no inputs": (b"{}", "bad_parameter"),
    "inputs empty": (b'{"inputs": []}', "bad_parameter"),
    "two inputs": (json.dumps({"inputs": _request()["inputs"] * 2}).encode(), "bad_parameter"),
    "unknown field": (_beside(more=1), "bad_parameter"),
    "unknown parameter": (_beside(parameters={"priority": 1}), "bad_parameter"),
    "another model": (_beside(model_name="colours"), "bad_parameter"),
    "another version": (_beside(model_version="2"), "bad_parameter"),
    "id is a number": (_beside(id=7), "bad_parameter"),
    "binary_data_output is text": (
        _beside(parameters={"binary_data_output": "yes"}),
        "bad_parameter",
    ),
    "unknown input": (_with(name="images"), "bad_parameter"),
    "no shape": (_with(shape=...), "bad_parameter"),
    "shape is empty": (_with(shape=[]), "image_missing"),
    "shape is negative": (_with(shape=[-1]), "image_missing"),
    "shape is a fraction": (_with(shape=[1.5]), "bad_parameter"),
    "shape is true": (_with(shape=[True]), "bad_parameter"),
    "shape is NaN": (_with().replace(b"[1]", b"[NaN]"), "bad_parameter"),
    "shape is infinite": (_with().replace(b"[1]", b"[1e999]"), "bad_parameter"),
    "shape is huge": (_with().replace(b"[1]", b"[%d]" % HUGE), "too_many_images"),
    "shape has more digits than Python reads": (
        _with().replace(b"[1]", b"[1" + b"0" * 9999 + b"]"),
        "bad_parameter",
    ),
    "shape's product overflows": (_pixel(shape=[2**62, SIZE, SIZE, 3]), "too_many_images"),
    "shape's product is 1 modulo 2**64": (_pixel(shape=[1, 2**32, 2**32, 3]), "bad_parameter"),
    "no image": (_with(shape=[0], data=[]), "image_missing"),
    "65 images": (_with(shape=[65], data=[""] * 65), "too_many_images"),
    "another type": (_with(datatype="FP32"), "bad_parameter"),
    "no data": (_with(data=...), "bad_parameter"),
    "data is text": (_with(data="text"), "bad_parameter"),
    "data is null": (_with(data=None), "bad_parameter"),
    "more data than the shape says": (_with(data=["", ""]), "bad_parameter"),
    "not base64": (_with(data=["\u00e4#"]), "bad_parameter"),
    "base64 with a character of none": (_with(data=["dGV4#dA=="]), "bad_parameter"),
    "base64 of text": (_with(data=["dGV4dA=="]), "image_undecodable"),
    "an image that is a number": (_with(data=[7]), "bad_parameter"),
    "pixels of another size": (_pixel(shape=[1, 8, 8, 3], data=[7] * 192), "bad_parameter"),
    "too few pixels": (_pixel(data=[7]), "bad_parameter"),
    "pixels ragged": (_pixel(data=[[7], 7]), "bad_parameter"),
    "a pixel of 256": (_pixel(data=[256] + [7] * 767), "bad_parameter"),
    "a pixel below 0": (_pixel(data=[-1] + [7] * 767), "bad_parameter"),
    "a pixel with a fraction": (_pixel(data=[0.5] + [7] * 767), "bad_parameter"),
    "a pixel of NaN": (_pixel().replace(b"[7,", b"[NaN,", 1), "bad_parameter"),
    "a huge pixel": (_pixel().replace(b"[7,", b"[%d," % HUGE, 1), "bad_parameter"),
    "a pixel of text, long": (_pixel(data=["x" * 100_000] + [7] * 767), "bad_parameter"),
    "unknown output": (_beside(outputs=[{"name": "logits"}]), "bad_parameter"),
    "maps of a model without": (_beside(outputs=[{"name": "maps"}]), "bad_parameter"),
    "an output twice": (_beside(outputs=[{"name": "scores"}] * 2), "bad_parameter"),
    "unknown parameter of an output": (
        _beside(outputs=[{"name": "scores", "parameters": {"classes": 1}}]),
        "bad_parameter",
    ),
    "classification of labels": (
        _beside(outputs=[{"name": "labels", "parameters": {"classification": 1}}]),
        "bad_parameter",
    ),
    "classification of more labels than there are": (
        _beside(outputs=[{"name": "scores", "parameters": {"classification": 4}}]),
        "bad_parameter",
    ),
    "classification is true": (
        _beside(outputs=[{"name": "scores", "parameters": {"classification": True}}]),
        "bad_parameter",
    ),
    "compressed": ((b"\x1f\x8b", {"Content-Encoding": "gzip"}), "format_unsupported"),
    # the binary extension
    "length is negative": ((_with(), {LENGTH: "-1"}), "bad_parameter"),
    "length is signed": ((_with(), {LENGTH: f"+{len(_with())}"}), "bad_parameter"),
    "length is text": ((_with(), {LENGTH: "NaN"}), "bad_parameter"),
    "length is too large": ((_with(), {LENGTH: str(len(_with()) + 1)}), "bad_parameter"),
    "length is huge": ((_with(), {LENGTH: "9" * 5000}), "bad_parameter"),
    "length is 0": ((_with(), {LENGTH: "0"}), "bad_parameter"),
    "length cuts the JSON": ((_with(), {LENGTH: "20"}), "bad_parameter"),
    "bytes of no tensor": ((_with() + b"x", {LENGTH: str(len(_with()))}), "bad_parameter"),
    "size without the header": (_sized(len(IMAGE), IMAGE)[0], "bad_parameter"),
    "size and data": (_both(), "bad_parameter"),
    "size is negative": (_sized(-1, IMAGE), "bad_parameter"),
    "size is text": (_sized("7", IMAGE), "bad_parameter"),
    "size is true": (_sized(True, b"x"), "bad_parameter"),
    "size is a fraction": (_sized(float(len(IMAGE)), IMAGE), "bad_parameter"),
    "size is huge": (_sized(HUGE, IMAGE), "bad_parameter"),
    "size is too large": (_sized(len(IMAGE) + 1, IMAGE), "bad_parameter"),
    "size is too small": (_sized(len(IMAGE) - 1, IMAGE), "bad_parameter"),
    "an element is longer than the data": (
        _sized(len(IMAGE), _element(RED, len(RED) + 1)),
        "bad_parameter",
    ),
    "an element's length is the largest": (
        _sized(len(IMAGE), _element(RED, 2**32 - 1)),
        "bad_parameter",
    ),
    "an element is shorter than the data": (
        _sized(len(IMAGE), _element(RED, len(RED) - 1)),
        "bad_parameter",
    ),
    "an element's length is cut off": (_sized(3, b"\1\0\0"), "bad_parameter"),
    "fewer elements than the shape says": (_sized(len(IMAGE), IMAGE, (2,)), "bad_parameter"),
    "more elements than the shape says": (_sized(2 * len(IMAGE), IMAGE * 2), "bad_parameter"),
    "no elements": (_sized(0, b""), "bad_parameter"),
    "pixels one byte short": (
        _sized(len(PIXELS) - 1, PIXELS[1:], (1, SIZE, SIZE, 3), "pixels"),
        "bad_parameter",
    ),
    "pixels one byte long": (
        _sized(len(PIXELS) + 1, PIXELS + b"x", (1, SIZE, SIZE, 3), "pixels"),
        "bad_parameter",
    ),
    "an image of no bytes": (_sized(4, _element(b"")), "image_missing"),
    "an image that is text": (_sized(8, _element(b"text")), "image_undecodable"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_request_is_refused_with_the_protocol_s_error(
    speaking: Server, name: str
) -> None:
    body, code = MALFORMED[name]
    content, headers = body if isinstance(body, tuple) else (body, {})
    answer = post(speaking.url + INFER, content=content, headers=headers, timeout=30)
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json()) == REQUIRED["inference_error_response"]
    found, _, detail = answer.json()["error"].partition(": ")
    assert (found, 400 <= answer.status_code < 500) == (code, True), answer.text
    assert len(detail) < 500


def test_the_image_that_cannot_be_decoded_is_named(client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException) as raised:
        client.infer("plain", [_input(RED, b"text", GREEN)])
    assert raised.value.message().startswith("image_undecodable: image 2 of 3: ")
    assert raised.value.status() == "422"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v2/models/nope", 404, "model_unknown"),
        ("GET", "/v2/models/plain:1", 404, "model_unknown"),
        ("GET", "/v2/models/plain/versions/01", 404, "model_unknown"),
        ("POST", "/v2/models/plain/versions/2/infer", 404, "model_unknown"),
        ("GET", "/v2/models/plain/infer", 405, "method_not_allowed"),
        ("POST", "/v2/health/live", 405, "method_not_allowed"),
        ("GET", "/v2/repository/index", 404, "not_found"),
        ("POST", "/v2/models//infer", 404, "not_found"),
    ],
)
def test_what_is_not_there_is_the_protocol_s_error_too(
    speaking: Server, method: str, path: str, status: int, code: str
) -> None:
    answer = httpx.request(method, speaking.url + path)
    assert answer.status_code == status
    assert answer.json().keys() == {"error"}
    assert answer.json()["error"].startswith(f"{code}: ")


def test_hostile_requests_never_cause_an_internal_error(speaking: Server) -> None:
    """After all of the above, and after good requests damaged at random."""
    random = np.random.default_rng(0)
    good, headers = _sized(len(IMAGE), IMAGE)
    with httpx.Client(base_url=speaking.url) as client:
        for _ in range(200):
            broken = bytearray(good)
            for place in random.integers(0, len(good) - len(IMAGE) + 8, 3):
                broken[place] = random.integers(0, 256)
            assert client.post(INFER, content=bytes(broken), headers=headers).status_code < 500
    assert speaking.metric('labrador_rejected_total{reason="internal"}') == 0
