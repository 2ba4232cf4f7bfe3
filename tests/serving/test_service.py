"""What BentoML's own tools do with the service."""

import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.manifest import MODEL_FILE
from serving.cores import gpus
from tests import tiny
from tests.serving.running import ROOT, Server, command, serve


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("pictures") / "dog.jpg"
    file.write_bytes(tiny.picture())
    return file


def _reason(server: Server) -> str:
    """Why /readyz says 503; /livez must not."""
    assert httpx.get(f"{server.url}/livez").status_code == 200
    end_s = time.monotonic() + 30
    while time.monotonic() < end_s:
        response = httpx.get(f"{server.url}/readyz")
        assert response.headers["content-type"] == "application/problem+json"
        assert (response.status_code, response.json()["code"]) == (503, "not_ready")
        if response.json()["detail"] != "loading":
            break
        time.sleep(0.1)
    for path in ("classify", "tag"):
        refusal = httpx.post(f"{server.url}/{path}", content=tiny.picture())
        assert (refusal.status_code, refusal.json()["code"]) == (503, "not_ready")
    return str(response.json()["detail"])


CLIENT = """
import bentoml, json, sys
from pathlib import Path
url, token, picture = sys.argv[1], sys.argv[2] or None, Path(sys.argv[3])
answers = []
with bentoml.SyncHTTPClient(url, token=token) as client:
    for call, arguments in json.loads(sys.argv[4]):
        images = [picture] * arguments.pop("images", 0) or picture
        image = arguments.pop("image", images)
        try:
            answers.append(getattr(client, call)(image=image, **arguments))
        except bentoml.exceptions.BentoMLException as error:
            answers.append(str(error))
print(json.dumps(answers))
"""


def _by_client(url: str, picture: Path, *calls: tuple[str, dict[str, Any]], token: str = "") -> Any:
    """Answers, or errors, of BentoML's client. In its own process, for it leaves files open."""
    run = subprocess.run(
        [sys.executable, "-c", CLIENT, url, token, str(picture), json.dumps(calls)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_the_client_of_bentoml_classifies_and_tags(server: Server, picture: Path) -> None:
    one, top, tagged, all_tags, both, refused, url = _by_client(
        server.url,
        picture,
        ("classify", {}),
        ("classify", {"top_k": 1, "model": "colours"}),
        ("tag", {}),
        ("tag", {"threshold": 0.0, "model": None}),
        ("classify", {"images": 2}),
        ("classify", {"top_k": 0}),
        ("classify", {"image": "http://127.0.0.1:1/dog.jpg"}),
    )
    assert one["predictions"][0]["label"] == "red"
    assert len(top["predictions"]) == 1
    assert [tag["label"] for tag in tagged["tags"]] == ["red"]
    assert len(all_tags["tags"]) == 3
    assert [result["predictions"][0]["label"] for result in both["results"]] == ["red", "red"]
    assert "top_k=0: use 1 to 3" in refused
    assert "image_undecodable" in url


def test_a_changed_bundle_is_named_and_the_server_stays_up(tmp_path: Path) -> None:
    model = tiny.add(tmp_path / "store", "colours", "single") / MODEL_FILE
    model.write_bytes(model.read_bytes() + b"\0")
    with serve(tmp_path, ready=False, model_store=tmp_path / "store") as server:
        assert "colours/1/model.onnx was changed" in _reason(server)
        assert server.metric('labrador_model_ready{model="colours"}') == 0
        assert "not ready: " in server.log()


@pytest.mark.skipif(gpus() > 0, reason="there is a GPU")
def test_cuda_without_a_gpu_is_not_ready(tmp_path: Path, store: Path) -> None:
    with serve(tmp_path, ready=False, model_store=store, device="cuda") as server:
        assert "no GPU" in _reason(server)


def test_keys_guard_the_models_and_leave_probes_and_docs_open(
    tmp_path: Path, store: Path, picture: Path
) -> None:
    (tmp_path / "keys").write_text("first\nsecond\n")
    with (
        serve(tmp_path, model_store=store, api_keys_file=tmp_path / "keys") as server,
        httpx.Client(base_url=server.url) as client,
    ):
        for method, path in (("POST", "/classify"), ("POST", "/tag"), ("GET", "/models")):
            image = tiny.picture() if method == "POST" else None
            for headers in ({}, {"Authorization": "Bearer third"}):
                response = client.request(method, path, content=image, headers=headers)
                assert (response.status_code, response.json()["code"]) == (401, "unauthorized")
                assert response.headers["www-authenticate"] == "Bearer"
            headers = {"Authorization": "Bearer second"}
            assert client.request(method, path, content=image, headers=headers).status_code == 200
        for path in ("/livez", "/readyz", "/metrics", "/docs", "/openapi.json"):
            assert client.get(path).status_code == 200
        (answer,) = _by_client(server.url, picture, ("classify", {}), token="first")
        assert "predictions" in answer


def test_sigterm_turns_readiness_off_and_serves_on_for_a_while(
    tmp_path: Path, store: Path, picture: Path
) -> None:
    with (
        serve(tmp_path, model_store=store, drain_s=2) as server,
        httpx.Client(base_url=server.url) as client,
    ):
        assert client.get("/readyz").headers.get("connection") != "close"
        assert len(list(tmp_path.glob("labrador-metrics-*/*.db"))) > 0
        server.process.send_signal(signal.SIGTERM)
        while (unready := client.get("/readyz")).status_code == 200:
            time.sleep(0.01)
        assert "draining" in unready.json()["detail"]
        answers = []
        with suppress(httpx.TransportError):  # it is gone
            while True:
                answers.append(client.post("/classify", content=picture.read_bytes()))
        server.process.wait(30)
    assert len(answers) > 10
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["connection"] for answer in answers} == {"close"}
    assert list(tmp_path.glob("labrador-metrics-*")) == []


def test_accepted_work_finishes_after_sigterm(tmp_path: Path, store: Path) -> None:
    images = [("image", tiny.picture(size_px=2000))] * 64
    with serve(tmp_path, model_store=store) as server, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(httpx.post, f"{server.url}/classify", files=images, timeout=30)
        while server.metric("labrador_batch_size_count") == 0:
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        assert all("predictions" in result for result in answer.result().json()["results"])


def test_a_bad_setting_stops_it_with_one_line(tmp_path: Path) -> None:
    script, environment = command(tmp_path, 3999, max_queu=5)
    run = subprocess.run(
        script, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert run.returncode != 0
    assert "LABRADOR_MAX_QUEU is no setting; valid: LABRADOR_MODELS, " in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("module", ["serving.session", "training.runtime"])
def test_onnx_runtime_leaves_no_trace_of_an_identity(tmp_path: Path, module: str) -> None:
    places = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", f"import {module}"], env=places, check=True)
    assert list(tmp_path.iterdir()) == []


def test_serving_loads_without_torch() -> None:
    script = "import sys, serving.service as s; print('torch' in sys.modules, s.__name__)"
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout.split() == ["False", "serving.service"], run.stderr
