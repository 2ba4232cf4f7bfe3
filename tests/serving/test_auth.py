from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from starlette.datastructures import Headers

from models.errors import Unauthorized
from serving import app
from serving.auth import Keys
from testkit import tiny_models
from testkit.in_process import Inside
from testkit.servers import get
from testkit.waiting import until


def test_without_configured_keys_no_key_is_required() -> None:
    Keys([]).check(Headers({}))


@pytest.mark.parametrize("value", ["Bearer one", "bearer two", "BEARER  two "])
def test_each_configured_key_is_accepted(value: str) -> None:
    Keys([b"one", b"two"]).check(Headers({"Authorization": value}))


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer ", "Bearer onetwo", "Basic one", "one"])
def test_anything_else_is_unauthorized(value: str) -> None:
    with pytest.raises(Unauthorized):
        Keys([b"one", b"two"]).check(Headers({"Authorization": value}))


def test_keys_protect_the_models_and_leave_probes_and_docs_open(
    inside: Callable[..., Inside], tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text("first\nsecond\n")
    server = inside(api_keys_file=tmp_path / "keys")
    with httpx.Client(base_url=server.url) as client:
        for method, path in (("POST", "/classify"), ("POST", "/tag"), ("GET", "/models")):
            image = tiny_models.picture() if method == "POST" else None
            for headers in ({}, {"Authorization": "Bearer third"}):
                response = client.request(method, path, content=image, headers=headers)
                assert (response.status_code, response.json()["code"]) == (401, "unauthorized")
                assert response.headers["www-authenticate"] == "Bearer"
            headers = {"Authorization": "Bearer second"}
            assert client.request(method, path, content=image, headers=headers).status_code == 200
        for path in ("/livez", "/readyz", "/metrics", "/docs", "/openapi.json"):
            assert client.get(path).status_code == 200


def test_rotated_keys_are_taken_over_and_an_unusable_file_changes_nothing(
    inside: Callable[..., Inside], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "KEYS_S", 0.02)
    file = tmp_path / "keys"
    file.write_text("first\n")
    server = inside(api_keys_file=file)

    def accepted(key: str) -> bool:
        headers = {"Authorization": f"Bearer {key}"}
        return get(f"{server.url}/models", headers=headers).status_code == 200

    assert accepted("first") and not accepted("second")
    file.write_text("first\nsecond\n")
    until(lambda: accepted("second"))
    file.write_text("second\n")
    until(lambda: not accepted("first"))
    file.unlink()
    for _ in range(10):
        assert accepted("second") and not accepted("first")
    file.write_text("third\n")
    until(lambda: accepted("third"))
    assert not accepted("second")
