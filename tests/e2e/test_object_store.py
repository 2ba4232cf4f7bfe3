"""Real commands and a real server on a store in S3, signed, with the store away in between."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from models.__main__ import main
from models.manifest import Manifest
from models.signing.signature import Signer
from models.storage.cache import default_folder
from models.store import Store
from testkit import tiny_models
from testkit.keys import key_pair
from testkit.object_storage import Proxy
from testkit.servers import Server, get, serve
from testkit.waiting import until

WITHIN_S = 30

BRIGHTER = tiny_models.WEIGHTS * 1.5


def add(url: str, signer: Signer | None = None) -> None:
    """Write the next version of `colours`, with its own weights."""

    def make(version: int) -> tuple[Manifest, dict[str, bytes]]:
        weights = tiny_models.WEIGHTS * version
        replaced = version - 1 or None
        return tiny_models.content("colours", version, "single", weights=weights, replaced=replaced)

    Store(url).add("colours", make, signer)


def _version(server: Server) -> str:
    (model,) = get(f"{server.url}/models").json()["models"]
    return str(model["version"])


def test_the_commands_look_after_a_store_in_s3(
    s3: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    private = key_pair(tmp_path / "key")
    for _ in range(3):
        add(s3.url, Signer(private))
    for version in (2, 3):
        Store(s3.url).release("colours", version)
    shutil.rmtree(default_folder())

    def said(*words: str, code: int = 0) -> str:
        assert main([*words, "--store", s3.url]) == code
        out, error = capsys.readouterr()
        return out + error

    listed = said("list")
    assert listed.startswith("colours: version 3 is released since 20")
    assert "* 3  0.0 MB" in listed
    assert f"colours:3, in {s3.url}/colours/3" in said("show", "colours")
    assert not s3.asked("GET", "model.onnx")  # neither pulls
    monkeypatch.setenv("LABRADOR_TRUST", str(private.with_suffix(".pub")))
    assert said("verify").count(" files are whole, ") == 3
    add(s3.url)
    assert said("verify", code=1).endswith(
        "/colours/4 is not signed: it has no model.sig\nerror: damaged: colours:4\n"
    )
    assert said("rollback", "colours", "--to", "4", code=1).endswith("it has no model.sig\n")
    assert said("rollback", "colours") == (
        "version 2 of colours is released, in place of version 3\n"
    )
    assert said("prune", "--keep", "1", "--yes").startswith(
        "colours keeps 1, 2, 4; version 2 is released\nremoved colours:3, "
    )
    assert Store(s3.url).versions("colours") == [1, 2, 4]


def test_a_server_follows_releases_and_serves_on_while_the_store_is_away(
    s3: Proxy, tmp_path: Path
) -> None:
    private = key_pair(tmp_path / "key")
    for signer in (Signer(private), Signer(private), None):
        add(s3.url, signer)
    settings: dict[str, Any] = {
        "model_store": s3.url,
        "models": "colours",
        "reload_s": 0.1,
        "store_timeout_s": 1,
    }
    trust = private.with_suffix(".pub")
    with serve(tmp_path, trust=trust, cache=tmp_path / "served", **settings) as server:
        assert _version(server) == "1"
        Store(s3.url).release("colours", 2)
        until(lambda: _version(server) == "2", WITHIN_S)
        s3.fault = lambda method, path: "hang"
        failures = server.metric("labrador_store_failures_total")
        until(lambda: server.metric("labrador_store_failures_total") > failures, WITHIN_S)
        assert get(f"{server.url}/readyz").status_code == 200
        s3.fault = lambda method, path: None
        Store(s3.url).release("colours", 3)  # nobody has signed it
        until(lambda: "colours/3 is not signed: it has no model.sig" in server.log(), WITHIN_S)
        assert _version(server) == "2"
        assert get(f"{server.url}/readyz").status_code == 200
        s3.requests.clear()
        until(lambda: len(s3.requests) > 3, WITHIN_S)
        assert {found for found in s3.requests} == {("GET", "colours/RELEASED", 304)}
