"""The service as used by BentoML's client and `bentoml serve`."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.observability.metrics import FOLDER_VARIABLE
from testkit import novel_models, tiny_models
from testkit.in_process import Inside
from testkit.servers import ROOT, Server, command, serve
from testkit.waiting import until


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "dog.jpg"
    path.write_bytes(tiny_models.picture())
    return path


CLIENT = """
import bentoml, json, sys
from pathlib import Path
url, file = sys.argv[1], Path(sys.argv[2])
answers = []
for call, arguments in json.loads(sys.argv[3]):
    images = [file] * arguments.pop("images", 0) or file
    image = arguments.pop("image", images)
    with bentoml.SyncHTTPClient(url, token=arguments.pop("token", None)) as client:
        try:
            answers.append(getattr(client, call)(image=image, **arguments))
        except bentoml.exceptions.BentoMLException as error:
            answers.append(str(error))
print(json.dumps(answers))
"""


def _by_client(url: str, file: Path, *calls: tuple[str, dict[str, Any]]) -> Any:
    """The answers or errors from BentoML's client, in its own process: it leaves files open."""
    run = subprocess.run(
        [sys.executable, "-c", CLIENT, url, str(file), json.dumps(calls)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_the_client_of_bentoml_classifies_and_tags(server: Server, file: Path) -> None:
    one, top, tagged, all_tags, both, refused, url = _by_client(
        server.url,
        file,
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


def test_the_client_of_bentoml_asks_for_alpha_and_coverage(
    inside: Callable[..., Inside], server: Server, file: Path, tmp_path: Path
) -> None:
    novel_models.add(tmp_path, "colours", "single")
    novel_models.add(tmp_path, "tags", "multi")
    schema = httpx.get(f"{server.url}/schema.json").json()
    strange, all_but_one, tagged, refused = _by_client(
        inside(model_store=tmp_path, schema=schema).url,
        file,
        ("classify", {"alpha": 0.005, "coverage": 0.9}),
        ("classify", {"alpha": None, "coverage": 0.99}),
        ("tag", {"alpha": 0.005}),
        ("classify", {"alpha": 0.001}),
    )
    assert strange["novelty"] == tagged["novelty"] == {"p_value": 0.005, "unknown": True}
    assert strange["set"] == ["red"] and all_but_one["set"][0] == "red"
    assert "alpha=0.001: use 0.005, the least" in refused


def test_the_client_of_bentoml_sends_its_token_as_the_key(
    inside: Callable[..., Inside], server: Server, file: Path, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text("first\nsecond\n")
    schema = httpx.get(f"{server.url}/schema.json").json()
    keyed = inside(api_keys_file=tmp_path / "keys", schema=schema)
    calls = [("classify", {"token": token}) for token in ("second", "third")]
    known, unknown = _by_client(keyed.url, file, *calls)
    assert "predictions" in known and "unauthorized" in unknown


def metrics_folder(server: Server) -> Path:
    environment = Path(f"/proc/{server.worker()}/environ").read_text().split("\0")
    (folder,) = (value for value in environment if value.startswith(f"{FOLDER_VARIABLE}="))
    return Path(folder.partition("=")[2])


def test_after_sigterm_it_is_not_ready_keeps_serving_for_a_while_and_finishes_accepted_requests(
    tmp_path: Path, store: Path, file: Path
) -> None:
    image = file.read_bytes()
    head = f"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: {len(image)}\r\n\r\n"
    with (
        serve(tmp_path, model_store=store, drain_s=1) as server,
        httpx.Client(base_url=server.url) as client,
        socket.create_connection(("127.0.0.1", server.port), timeout=30) as accepted,
    ):
        accepted.sendall(head.encode() + image[:-1])
        assert client.get("/readyz").headers.get("connection") != "close"
        metrics = metrics_folder(server)
        assert len(list(metrics.glob("*.db"))) > 0
        server.process.send_signal(signal.SIGTERM)
        until(lambda: client.get("/readyz").status_code == 503)
        assert "draining" in client.get("/readyz").json()["detail"]
        answers = []
        with suppress(httpx.TransportError):  # it accepts no more connections
            while server.process.poll() is None:
                answers.append(client.post("/classify", content=image))
        accepted.sendall(image[-1:])  # completes the request that it accepted before
        assert accepted.recv(65536).startswith(b"HTTP/1.1 200 ")
        server.process.wait(30)
    assert len(answers) > 0
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["connection"] for answer in answers} == {"close"}
    assert not metrics.exists()


def test_a_bad_setting_stops_the_service_with_one_line(tmp_path: Path) -> None:
    script, environment = command(tmp_path, 3999, max_queu=5)
    run = subprocess.run(
        script, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert run.returncode != 0
    assert "unknown setting LABRADOR_MAX_QUEU; valid: LABRADOR_MODELS, " in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("module", ["serving.session", "training.evaluation.onnx_session"])
def test_importing_onnx_runtime_writes_no_telemetry_files(tmp_path: Path, module: str) -> None:
    places = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", f"import {module}"], env=places, check=True)
    assert list(tmp_path.iterdir()) == []
