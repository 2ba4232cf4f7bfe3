"""`maps=true` over HTTP, against maps and evidence computed in NumPy."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.errors import ModelFailed
from models.manifest import Task
from models.preprocess import decode
from serving import openapi
from serving.maps import Look, beside
from serving.settings import Settings
from testkit import mapped_models, tiny_models
from testkit.in_process import Hold, Inside, ask
from testkit.odd_images import encoded
from testkit.servers import post
from testkit.waiting import until

PREPROCESS = tiny_models.content("any", 1, "single")[0].preprocess
LABELS = tiny_models.LABELS


def picture(width: int = 96, height: int = 64, orientation: int | None = None) -> bytes:
    """Mostly red, with green at the left and blue at the bottom; in a PNG, to be exact."""
    pixels = np.full((height, width, 3), (200, 30, 30), np.uint8)
    pixels[:, : width // 3] = (20, 180, 60)
    pixels[height // 2 :, width // 2 :] = (30, 60, 220)
    return encoded(pixels, "PNG", orientation)


@pytest.fixture
def running(inside: Callable[..., Inside], mapped: Path) -> Iterator[Inside]:
    yield inside(model_store=mapped)


def expected_maps(image: bytes) -> NDArray[np.float32]:
    (maps,) = mapped_models.reference_maps(decode(image, PREPROCESS)[np.newaxis])
    return np.asarray(maps)


def test_a_prediction_carries_the_evidence_for_it_and_against_its_rival(running: Inside) -> None:
    image = picture()
    answer = ask(running, "classify?model=colours&maps=true", image)
    maps, ranked = expected_maps(image), [p["label"] for p in answer["predictions"]]
    assert [p["against"] for p in answer["predictions"]] == [ranked[1], ranked[0], ranked[0]]
    for prediction in answer["predictions"]:
        label, against = (LABELS.index(prediction[key]) for key in ("label", "against"))
        found = maps[label] - maps[against]
        np.testing.assert_allclose(prediction["map"], found - found.mean(), atol=0.002)


def test_a_tag_carries_the_evidence_of_its_own_logit(running: Inside) -> None:
    image = picture()
    answer = ask(running, "tag?threshold=0&maps=true", image)
    assert len(answer["tags"]) == 3
    for tag in answer["tags"]:
        found = expected_maps(image)[LABELS.index(tag["label"])]
        np.testing.assert_allclose(tag["map"], found - found.mean(), atol=0.002)
        assert "against" not in tag


@pytest.mark.parametrize("task", ["single", "multi"])
def test_maps_change_nothing_else_and_are_there_only_if_asked_for(
    task: Task, running: Inside
) -> None:
    query = "classify?model=colours" if task == "single" else "tag?threshold=0"
    plain = ask(running, query, picture())
    answer = ask(running, f"{query}&maps=true", picture())
    assert plain == ask(running, f"{query}&maps=false", picture())
    key = "predictions" if task == "single" else "tags"
    for decision in answer[key]:
        del decision["map"]
        decision.pop("against", None)
    assert answer.pop("box") and answer == plain


def test_an_image_beside_others_of_its_batch_has_maps_only_if_it_asked_for_them(
    inferring: Hold, running: Inside
) -> None:
    while inferring.reached.acquire(blocking=False):
        pass  # what loading ran
    waiting = 'labrador_queue_images{model="colours"}'
    inferring.go.clear()
    with ThreadPoolExecutor(3) as pool:
        try:
            pool.submit(ask, running, "classify?model=colours", picture())
            inferring.wait()  # it runs alone, and the next two are a batch
            asked, plain = (
                pool.submit(ask, running, f"classify?model=colours&maps={maps}", picture())
                for maps in ("true", "false")
            )
            until(lambda: running.metric(waiting) == 2)
        finally:
            inferring.go.set()
    assert "map" in asked.result()["predictions"][0] and "box" in asked.result()
    assert "map" not in plain.result()["predictions"][0] and "box" not in plain.result()


@pytest.mark.parametrize("orientation", [None, 3, 6])
def test_the_map_and_its_box_are_those_of_the_upright_picture(
    running: Inside, orientation: int | None
) -> None:
    image = picture(orientation=orientation)
    answer = ask(running, "tag?threshold=0&maps=true", image)
    side = 0.9 * 64
    across, down = side / 96, side / 64
    if orientation == 6:
        across, down = down, across
    box = [(1 - across) / 2, (1 - down) / 2, (1 + across) / 2, (1 + down) / 2]
    assert answer["box"] == pytest.approx(box)
    green = next(np.array(tag["map"]) for tag in answer["tags"] if tag["label"] == "green")
    sides = {None: green[:, 0], 3: green[:, -1], 6: green[0]}  # where its left side is now
    assert sides[orientation].min() > 0


def test_each_of_several_images_has_its_own_map_or_error(running: Inside) -> None:
    files = [("image", picture()), ("image", b"no image"), ("image", picture(64, 96))]
    response = post(f"{running.url}/classify?model=colours&maps=true", files=files)
    first, bad, third = response.json()["results"]
    assert first["box"][0] > 0.1 and third["box"][1] > 0.1
    assert first["predictions"][0]["map"] != third["predictions"][0]["map"]
    assert bad["error"]["code"] == "image_undecodable"


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("classify?model=colours&maps=1", "maps='1': use true or false"),
        ("classify?model=plain&maps=true", "maps=true: plain:1 has no maps"),
    ],
)
def test_maps_that_cannot_be_had_are_refused(running: Inside, query: str, detail: str) -> None:
    response = post(f"{running.url}/{query}", content=picture())
    assert (response.status_code, response.json()["detail"]) == (400, detail)


def test_a_map_that_is_not_finite_is_the_models_failure() -> None:
    manifest, _ = mapped_models.content("colours", 1, "single")
    maps = np.full((3, 4, 4), np.inf, np.float32)
    look = Look(np.array([0.5, 0.3, 0.2], np.float32), maps, (0, 0, 1, 1))
    with pytest.raises(ModelFailed, match="maps are not all finite"):
        beside([{"label": "red"}], look, manifest)


def test_the_api_documentation_describes_maps() -> None:
    for path in ("/classify", "/tag"):
        post = openapi.specification(Settings())["paths"][path]["post"]
        assert "maps" in [parameter["name"] for parameter in post["parameters"]]
        schema = post["responses"]["200"]["content"]["application/json"]["schema"]
        one, several = schema["oneOf"]
        for result in (one, several["properties"]["results"]["items"]["oneOf"][0]):
            decisions = result["properties"]["predictions" if path == "/classify" else "tags"]
            assert "map" in decisions["items"]["properties"]
            assert "box" in result["properties"]
