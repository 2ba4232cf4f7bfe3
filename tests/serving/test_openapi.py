import json
from pathlib import Path

import httpx

from models.errors import LabradorError
from serving.openapi import PAGE, specification
from serving.settings import Settings
from testkit.servers import Server


def test_every_error_code_of_a_prediction_is_described() -> None:
    post = specification(Settings())["paths"]["/classify"]["post"]
    problems = {
        code: int(status)
        for status, response in post["responses"].items()
        if status != "200"
        for code in response["content"]["application/problem+json"]["schema"]["properties"]["code"][
            "enum"
        ]
    }
    every = {LabradorError.code: LabradorError.status.value}
    for error in LabradorError.__subclasses__():
        every[error.code] = error.status.value
    del every["not_found"], every["method_not_allowed"]
    assert problems == every


def test_the_limits_are_those_of_the_settings() -> None:
    text = json.dumps(specification(Settings(max_body_mb=7, max_megapixels=3)))
    assert "7 MiB" in text
    assert "3 megapixels" in text


def test_keys_are_required_if_keys_are_configured(tmp_path: Path) -> None:
    paths = specification(Settings(api_keys_file=tmp_path / "keys"))["paths"]
    assert paths["/tag"]["post"]["security"] == [{"key": []}]
    assert "security" not in specification(Settings())["paths"]["/tag"]["post"]


def test_the_page_loads_nothing_from_other_hosts(server: Server) -> None:
    assert httpx.get(f"{server.url}/docs").text == PAGE
    assert "//" not in PAGE
    for asset in ("docs/swagger-ui.css", "docs/swagger-ui-bundle.js", "openapi.json"):
        assert asset in PAGE
        assert httpx.get(f"{server.url}/{asset}").status_code == 200
