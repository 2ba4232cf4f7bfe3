from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from starlette.datastructures import Headers

from models.errors import Unauthorized
from serving.auth import Keys
from testkit import tiny_models
from testkit.in_process import Inside


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
