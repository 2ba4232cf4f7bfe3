"""The page's files and its sample pictures over HTTP. The page itself: test_page_in_chromium.py."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from models import bundle
from models.golden import samples
from models.manifest import MODEL_FILE
from testkit import tiny_models
from testkit.in_process import Inside
from testkit.servers import ROOT, get

FOLDER = ROOT / "serving" / "page"
FILES = sorted(file.name for file in FOLDER.iterdir())


def test_the_page_is_at_the_root_and_its_files_beside_it(inside: Callable[..., Inside]) -> None:
    server = inside()
    assert get(f"{server.url}/").content == (FOLDER / "index.html").read_bytes()
    kinds = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    kinds["html"] = "text/html"
    for name in FILES:
        response = get(f"{server.url}/page/{name}")
        assert response.content == (FOLDER / name).read_bytes()
        kind = response.headers["content-type"].partition(";")[0]
        assert kind == kinds[name.rpartition(".")[2]]


def test_a_browser_is_told_to_run_and_load_nothing_else(inside: Callable[..., Inside]) -> None:
    server = inside()
    for path in ("", *(f"page/{name}" for name in FILES)):
        headers = get(f"{server.url}/{path}").headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy and "http" not in policy and "*" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


def test_what_a_browser_holds_is_not_sent_again(inside: Callable[..., Inside]) -> None:
    server = inside()
    for path in ("", "page/page.js", "models/colours/samples/1"):
        first = get(f"{server.url}/{path}")
        assert "no-cache" in first.headers["cache-control"]
        for held in (first.headers["etag"], f'"other", W/{first.headers["etag"]}'):
            again = get(f"{server.url}/{path}", headers={"If-None-Match": held})
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["etag"] == first.headers["etag"]
        other = get(f"{server.url}/{path}", headers={"If-None-Match": '"other"'})
        assert (other.status_code, other.content) == (200, first.content)


@pytest.mark.parametrize(
    "path",
    ["page/app.py", "page/..%2Fapp.py", "page/../app.py", "page/%2Fetc%2Fpasswd", "page/a/b"],
)
def test_no_other_file_can_be_had(inside: Callable[..., Inside], path: str) -> None:
    response = get(f"{inside().url}/{path}")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


def test_the_whole_page_is_light_and_names_no_other_host() -> None:
    texts = {file.name: file.read_text(encoding="utf-8") for file in FOLDER.iterdir()}
    assert sum(len(text.encode()) for text in texts.values()) <= 60_000
    for name, text in texts.items():
        assert re.findall(r"https?://[^\s\"')]+", text) in ([], ["http://www.w3.org/2000/svg"]), (
            name
        )
    named = set(
        re.findall(r"[\"']\.?/?(?:page/)?([\w-]+\.(?:js|css|svg))[\"']", "".join(texts.values()))
    )
    assert named | {"index.html"} == set(texts)


def test_the_samples_are_golden_images_of_the_served_version(
    inside: Callable[..., Inside], store: Path
) -> None:
    server = inside()
    expected = samples(bundle.read(store / "tags" / "1"))
    described = {m["name"]: m for m in get(f"{server.url}/models").json()["models"]}
    assert described["tags"]["samples"] == len(expected) == 3
    for number, data in enumerate(expected, 1):
        response = get(f"{server.url}/models/tags/samples/{number}")
        assert response.content == data
        assert response.headers["content-type"] == "image/jpeg"
        assert response.headers["cache-control"].startswith("private")


@pytest.mark.parametrize(
    ("path", "code", "detail"),
    [
        ("tags/samples/0", "not_found", "no sample 0; tags has 1 to 3"),
        ("tags/samples/4", "not_found", "no sample 4; tags has 1 to 3"),
        ("pets/samples/1", "model_unknown", "unknown model 'pets'; valid: colours, tags"),
    ],
)
def test_what_is_no_sample_is_named(
    inside: Callable[..., Inside], path: str, code: str, detail: str
) -> None:
    problem = get(f"{inside().url}/models/{path}").json()
    assert (problem["code"], problem["detail"]) == (code, detail)


def test_a_model_that_is_not_served_has_no_samples_for_now(
    inside: Callable[..., Inside], tmp_path: Path
) -> None:
    tiny_models.add(tmp_path, "sound", "single")
    (tiny_models.add(tmp_path, "broken", "single") / MODEL_FILE).write_bytes(b"no network")
    response = get(f"{inside(model_store=tmp_path).url}/models/broken/samples/1")
    assert (response.status_code, response.json()["code"]) == (503, "not_ready")


def test_keys_protect_the_samples_and_leave_the_page_open(
    inside: Callable[..., Inside], tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text("first\n")
    server = inside(api_keys_file=tmp_path / "keys")
    assert get(f"{server.url}/").status_code == 200
    assert get(f"{server.url}/page/page.js").status_code == 200
    sample = f"{server.url}/models/colours/samples/1"
    assert get(sample).status_code == 401
    assert get(sample, headers={"Authorization": "Bearer first"}).status_code == 200


def test_without_the_page_neither_it_nor_samples_are_there(inside: Callable[..., Inside]) -> None:
    server = inside(page=False)
    for path in ("", "page/page.js", "models/colours/samples/1"):
        problem = get(f"{server.url}/{path}").json()
        assert (problem["code"], "/page" in problem["detail"]) == ("not_found", False)
    assert [m["samples"] for m in get(f"{server.url}/models").json()["models"]] == [0, 0]


def test_models_tell_what_a_client_needs_to_show_an_answer(inside: Callable[..., Inside]) -> None:
    answer = get(f"{inside(max_body_mb=7, max_megapixels=3).url}/models").json()
    assert answer["limits"] == {"body_mb": 7, "megapixels": 3, "images": 64}
    described = {model["name"]: model for model in answer["models"]}
    assert described["tags"]["thresholds"] == [0.5, 0.5, 0.5]
    assert described["colours"]["thresholds"] is None
    assert [model["maps"] for model in described.values()] == [False, False]
