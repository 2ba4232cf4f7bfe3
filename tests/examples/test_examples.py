"""The examples work: recipes resolve, the client gets answers, the script trains and predicts."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from examples import client, python_api
from models.errors import RecipeError
from models.preprocess import decode
from testkit import image_sets, narrow_resnet, tiny_models
from testkit.servers import ROOT, Server, serve
from testkit.waiting import until
from training import run_folder
from training.data import datasets
from training.export import forms
from training.network.resnet import Served
from training.recipe import resolve

RECIPES = sorted((ROOT / "examples").glob("*.toml"))
TEXT = b"not an image"


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The workers share the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service with a model for each task that requires a key."""
    folder = tmp_path_factory.mktemp("examples")
    tiny_models.add(folder / "store", "colours", "single")
    tiny_models.add(folder / "store", "tags", "multi")
    (folder / "keys").write_text("secret\n")
    with serve(folder, model_store=folder / "store", api_keys_file=folder / "keys") as running:
        yield running


def ask(server: Server, *images: bytes, **more: Any) -> list[dict[str, Any]]:
    return client.ask(server.url, images, **{"key": "secret", **more})


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_a_recipe_is_valid(file: Path) -> None:
    recipe = resolve({}, file)
    for named in (recipe.relabel, recipe.images, recipe.quarantine):
        assert named is None or (ROOT / named).is_file()
    assert recipe.task == ("multi" if file.stem == "tags" else None)


def test_there_are_three_recipes_and_a_misspelt_option_is_refused(tmp_path: Path) -> None:
    assert [file.stem for file in RECIPES] == ["breeds", "cat_or_dog", "tags"]
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(RECIPES[0].read_text() + "epoch = 3\n")
    with pytest.raises(RecipeError, match="unknown option epoch; valid: data, "):
        resolve({}, wrong)


@pytest.mark.data
def test_the_relabelled_pets_have_two_labels(
    real_images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    pets = str(real_images / "pets")
    relabelled = datasets.read_as(resolve({"data": pets}, ROOT / "examples" / "cat_or_dog.toml"))
    breeds = datasets.read_as(resolve({"data": pets}, ROOT / "examples" / "breeds.toml"))
    assert relabelled.labels == ("cat", "dog")
    assert len(breeds.labels) == 37
    for one, other in zip(relabelled.records, breeds.records, strict=True):
        # the data set's rule: names of cat breeds begin with a capital letter
        assert one.labels == ("cat" if other.labels[0][0].isupper() else "dog",)


def test_the_client_returns_the_result_of_one_image(server: Server) -> None:
    (result,) = ask(server, tiny_models.picture((200, 30, 30)), top_k="2")
    assert [found["label"] for found in result["predictions"]][0] == "red"
    assert len(result["predictions"]) == 2
    assert client.as_text(result).startswith("red ")


def test_the_client_returns_a_batch_in_order_with_the_error_of_each_image(server: Server) -> None:
    red, bad, blue = ask(
        server, tiny_models.picture((200, 30, 30)), TEXT, tiny_models.picture((30, 60, 220))
    )
    assert [one["predictions"][0]["label"] for one in (red, blue)] == ["red", "blue"]
    assert bad["error"]["code"] == "image_undecodable"
    assert client.as_text(bad) == f"error: {bad['error']['detail']}"


@pytest.mark.parametrize(("data", "code"), [(TEXT, "image_undecodable"), (b"", "image_missing")])
def test_the_client_returns_the_error_of_one_bad_image_as_in_a_batch(
    server: Server, data: bytes, code: str
) -> None:
    (alone,) = ask(server, data)
    in_batch, _ = ask(server, data, tiny_models.picture())
    assert alone["error"]["code"] == code
    assert alone == in_batch


def test_the_client_returns_tags_or_says_that_there_are_none(server: Server) -> None:
    (red,) = ask(server, tiny_models.picture((200, 30, 30)), task="multi")
    (nothing,) = ask(server, tiny_models.picture((200, 30, 30)), task="multi", threshold="1")
    assert red["tags"][0]["label"] == "red"
    assert client.as_text(nothing) == "no tags"


def test_the_client_says_that_an_image_is_unknown() -> None:
    tags = [{"label": "red", "probability": 0.75}]
    known, strange = ({"p_value": 0.1, "unknown": unknown} for unknown in (False, True))
    assert client.as_text({"tags": tags, "novelty": known}) == "red 75%"
    assert client.as_text({"tags": tags, "novelty": strange}) == "unknown; if anything: red 75%"


def test_the_client_raises_if_the_whole_request_is_refused(server: Server) -> None:
    with pytest.raises(client.RefusedError, match="^unauthorized: ") as refused:
        ask(server, tiny_models.picture(), key="wrong")
    assert refused.value.problem["status"] == 401
    with pytest.raises(client.RefusedError, match="^bad_parameter: "):
        ask(server, tiny_models.picture(), tiny_models.picture(), top_k="many")


def test_the_client_retries_if_the_service_is_overloaded(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, answers, waited = httpx.post, [429, 200], list[float]()

    def busy_at_first(*arguments: Any, **more: Any) -> httpx.Response:
        if answers.pop(0) == 429:
            return httpx.Response(429, headers={"Retry-After": "7"})
        return real(*arguments, **more)

    monkeypatch.setattr(httpx, "post", busy_at_first)
    monkeypatch.setattr(time, "sleep", waited.append)
    (result,) = ask(server, tiny_models.picture())
    assert "predictions" in result
    assert waited == [7]


def test_the_client_runs_as_a_command(server: Server, tmp_path: Path) -> None:
    """Alone in its folder; without a key, it says why it is refused."""
    script = tmp_path / "client.py"
    script.write_bytes((ROOT / "examples" / "client.py").read_bytes())
    (tmp_path / "red.jpg").write_bytes(tiny_models.picture())
    words = [sys.executable, str(script), server.url, str(tmp_path / "red.jpg")]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: unauthorized: ")


@pytest.mark.usefixtures("one_thread")
def test_the_script_trains_exports_and_predicts_like_the_trained_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forms, "REDUCED", ())  # the others take seconds, and more images to pass
    images, work = image_sets.class_folders(tmp_path / "images", 8), tmp_path / "work"
    with narrow_resnet.in_place():
        python_api.main(images, work, **image_sets.recipe(images, epochs=1).model_dump())
        run = run_folder.read(work / "run")
        network = Served(run.network(), "single", run.outcome.temperature).eval()
    file = images / "blue" / "000.jpg"  # the first
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith(str(file))]
    assert len(printed) == 2

    predictions = python_api.Model(work / "models" / "mine" / "1").classify(
        file.read_bytes(), top_k=3
    )
    pixels = decode(file.read_bytes(), run.outcome.preprocess)
    with torch.inference_mode():
        expected = network(torch.from_numpy(pixels[None].copy()))[0][0].numpy()
    got = {one.label: one.probability for one in predictions}
    np.testing.assert_allclose([got[label] for label in run.outcome.labels], expected, atol=1e-4)


def test_a_service_of_ones_own_has_labrador_beside_it(tmp_path: Path) -> None:
    tiny_models.add(tmp_path, "colours", "single")
    with (
        tempfile.TemporaryDirectory() as folder,  # a socket's path is 103 characters at most
        serve(
            Path(folder), service="examples.own_service:Captions", model_store=tmp_path
        ) as captions,
    ):
        until(lambda: "colours:1 runs" in captions.log())
        answer = httpx.post(
            f"{captions.url}/caption", files=[("image", tiny_models.picture((200, 30, 30)))]
        )
        assert answer.text == "This is probably red (100%)."
