"""`Labrador()` in a Python process answers like the server."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from models.errors import (
    BadParameter,
    BundleError,
    DataError,
    ImageMissing,
    ImageUndecodable,
    ModelUnknown,
)
from serving.local import Local
from serving.settings import Settings
from testkit import tiny_models
from testkit.servers import ROOT, Server, post

CALL = """
import json, sys
from pathlib import Path
from serving.service import Labrador
labrador = Labrador()
file, calls = Path(sys.argv[1]), json.loads(sys.argv[2])
print(json.dumps([getattr(labrador, name)([file], **given) for name, given in calls]))
"""


@pytest.fixture(scope="module")
def local(store: Path) -> Local:
    return Local(Settings(model_store=store, device="cpu"))


@pytest.fixture
def red(tmp_path: Path) -> Path:
    file = tmp_path / "red.jpg"
    file.write_bytes(tiny_models.picture((200, 30, 30)))
    return file


def test_the_class_answers_as_the_server_does(server: Server, store: Path, red: Path) -> None:
    """In its own process, because importing BentoML warns and loads prometheus_client."""
    calls: list[tuple[str, dict[str, Any]]] = [
        ("classify", {}),
        ("classify", {"top_k": 1}),
        ("tag", {}),
        ("tag", {"threshold": 0.001}),
    ]
    done = subprocess.run(
        [sys.executable, "-c", CALL, str(red), json.dumps(calls)],
        env={**os.environ, "LABRADOR_MODEL_STORE": str(store)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for (endpoint, parameters), answer in zip(calls, json.loads(done.stdout), strict=True):
        query = "&".join(f"{name}={value}" for name, value in parameters.items())
        over_http = post(f"{server.url}/{endpoint}?{query}", content=red.read_bytes())
        assert answer == over_http.json()


def test_several_files_each_have_their_own_result(local: Local, red: Path, tmp_path: Path) -> None:
    text, gone = tmp_path / "text.jpg", tmp_path / "gone.jpg"
    text.write_text("not an image")
    files = [text, *[red] * 9, gone]  # more than a batch of 8
    results = local.answer("single", files, {"top_k": 1})["results"]
    assert [r.get("error", {}).get("code") for r in results] == [
        "image_undecodable",
        *[None] * 9,
        "internal",
    ]
    assert [r["predictions"][0]["label"] for r in results[1:10]] == ["red"] * 9


def test_a_single_file_needs_no_list(local: Local, red: Path) -> None:
    assert local.answer("single", str(red), {}) == local.answer("single", [red], {})


def test_errors_of_a_single_image_or_of_the_parameters_are_raised(
    local: Local, red: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("not an image")
    with pytest.raises(ImageUndecodable):
        local.answer("single", [text], {})
    with pytest.raises(DataError, match="gone.jpg cannot be read: No such file"):
        local.answer("single", [tmp_path / "gone.jpg"], {})
    with pytest.raises(ImageMissing, match="^give one image or more$"):
        local.answer("single", [], {})
    with pytest.raises(BadParameter, match="top_k=7: use 1 to 3"):
        local.answer("single", [red], {"top_k": 7})
    with pytest.raises(ModelUnknown, match="unknown model 'dogs'; valid: colours"):
        local.answer("single", [red], {"model": "dogs"})


def test_larger_images_than_the_settings_allow_are_refused(store: Path, red: Path) -> None:
    small = Local(Settings(model_store=store, device="cpu", max_megapixels=0.001))
    with pytest.raises(Exception, match="more than the limit of 0.001 megapixels"):
        small.answer("single", [red], {})


def test_an_empty_store_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="there is no model in "):
        Local(Settings(model_store=tmp_path))
