"""`novelty`, `alpha=` and `coverage=` over HTTP, against p-values and sets computed in NumPy."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.manifest import Manifest, Task
from models.outputs import Output
from models.preprocess import decode
from serving import openapi
from serving.local import Local
from serving.promises import judged
from serving.settings import Settings
from testkit import novel_models, tiny_models
from testkit.in_process import Inside, ask
from testkit.json_schema import problem
from testkit.odd_images import encoded
from testkit.servers import get, post

ENDPOINTS: dict[Task, str] = {"single": "classify?model=colours", "multi": "tag?model=tags"}
PREPROCESS = tiny_models.content("any", 1, "single")[0].preprocess
Start = Callable[..., Inside]


def picture(*colour: int) -> bytes:
    return encoded(np.full((48, 48, 3), colour, np.uint8), "PNG")


GREY, STRANGE = picture(128, 128, 128), picture(250, 10, 10)
BETWEEN = picture(165, 110, 110)  # some held-out images are stranger, most are not


@pytest.fixture(scope="module")
def novel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose models measure novelty, colours and tags, and one that does not: plain."""
    folder = tmp_path_factory.mktemp("novel")
    novel_models.add(folder, "colours", "single")
    novel_models.add(folder, "tags", "multi")
    tiny_models.add(folder, "plain", "single")
    tiny_models.add(folder, "plain-tags", "multi")
    return folder


@pytest.fixture
def running(inside: Start, novel: Path) -> Inside:
    return inside(model_store=novel)


def expected_p(image: bytes) -> float:
    """(1 + how many of the held-out images are at least as strange) / (n + 1)."""
    (novelty,) = novel_models.reference_novelty(decode(image, PREPROCESS)[np.newaxis])
    known = novel_models.held_out("multi").novelty
    assert known is not None
    return (1 + int((known >= novelty).sum())) / (1 + len(known))


@pytest.mark.parametrize("task", ["single", "multi"])
def test_every_answer_has_the_image_s_p_value_and_whether_it_is_unknown(
    running: Inside, task: Task
) -> None:
    for image, unknown in ((GREY, False), (BETWEEN, False), (STRANGE, True)):
        novelty = ask(running, ENDPOINTS[task], image)["novelty"]
        assert novelty == {"p_value": expected_p(image), "unknown": unknown}
    assert 0.1 < expected_p(BETWEEN) < 0.9


@pytest.mark.parametrize("task", ["single", "multi"])
def test_alpha_says_from_which_p_value_on_an_image_is_unknown(running: Inside, task: Task) -> None:
    p_value = expected_p(BETWEEN)
    for alpha, unknown in ((p_value, True), (math.nextafter(p_value, 0), False)):
        novelty = ask(running, f"{ENDPOINTS[task]}&alpha={alpha!r}", BETWEEN)["novelty"]
        assert novelty == {"p_value": p_value, "unknown": unknown}


def test_each_of_several_images_has_its_own_novelty_or_error(running: Inside) -> None:
    files = [("image", image) for image in (STRANGE, b"no image", GREY)]
    response = post(f"{running.url}/classify?model=colours&coverage=0.9", files=files)
    strange, bad, grey = response.json()["results"]
    assert (strange["novelty"]["unknown"], grey["novelty"]["unknown"]) == (True, False)
    assert strange["set"] and grey["set"]
    assert bad.keys() == {"error"}


def expected_set(image: bytes, coverage: float) -> list[str]:
    """Labels, from the likeliest on, until those before the next have more than enough."""
    scores = tiny_models.reference_scores(decode(image, PREPROCESS)[np.newaxis], "single")[0]
    masses = novel_models.held_out("single").mass_before
    assert masses is not None
    enough = np.sort(masses)[math.ceil((len(masses) + 1) * coverage) - 1]
    order = np.argsort(-scores)
    before = np.concatenate([[0], np.cumsum(scores[order].astype(np.float64))[:-1]])
    return [tiny_models.LABELS[label] for label in order[before <= enough]]


def test_coverage_adds_the_set_of_labels(running: Inside) -> None:
    image, sizes = picture(150, 120, 90), []
    for coverage in (0.4, 0.6, 0.9, 0.99):
        answer = ask(running, f"classify?model=colours&coverage={coverage}", image)
        assert answer["set"] == expected_set(image, coverage)
        sizes.append(len(answer["set"]))
    assert sizes[0] == 1 and sizes[-1] == 3 and sizes == sorted(sizes)
    assert "set" not in ask(running, "classify?model=colours", image)


def test_maps_and_top_k_change_neither_novelty_nor_the_set(running: Inside) -> None:
    query = "classify?model=colours&coverage=0.99"
    plain, top = ask(running, query, BETWEEN), ask(running, f"{query}&top_k=1", BETWEEN)
    assert len(top["predictions"]) == 1
    for key in ("novelty", "set"):
        assert top[key] == plain[key]


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("classify?model=colours&alpha=x", "alpha='x': use a number"),
        (
            "classify?model=colours&alpha=0.0049",
            "alpha=0.0049: use 0.005, the least that 199 held-out images can promise, to less"
            " than 1",
        ),
        (
            "tag?model=tags&alpha=nan",
            "alpha=nan: use 0.005, the least that 199 held-out images can promise, to less than 1",
        ),
        ("classify?model=plain&alpha=0.05", "alpha=0.05: plain:1 has no novelty"),
        ("tag?model=plain-tags&alpha=0.05", "alpha=0.05: plain-tags:1 has no novelty"),
        ("classify?model=colours&coverage=x", "coverage='x': use a number"),
        (
            "classify?model=colours&coverage=1",
            "coverage=1.0: use a number between 0 and 1, such as 0.9",
        ),
        (
            "classify?model=colours&coverage=0.996",
            "coverage=0.996: use at most 0.995, which 199 held-out images can promise",
        ),
        ("classify?model=plain&coverage=0.9", "coverage=0.9: plain:1 has no sets of labels"),
        (
            "tag?model=tags&coverage=0.9",
            "unknown parameter 'coverage'; valid: model, threshold, alpha, maps",
        ),
    ],
)
def test_what_cannot_be_promised_is_refused_with_what_can(
    running: Inside, query: str, detail: str
) -> None:
    response = post(f"{running.url}/{query}", content=GREY)
    assert (response.status_code, response.json()["code"]) == (400, "bad_parameter")
    assert response.json()["detail"] == detail


def test_a_bundle_without_novelty_answers_as_before(running: Inside) -> None:
    assert ask(running, "classify?model=plain", STRANGE).keys() == {"model", "predictions"}
    assert ask(running, "tag?model=plain-tags", STRANGE).keys() == {"model", "tags"}


def test_models_say_what_can_be_asked_for(running: Inside) -> None:
    described = {model["name"]: model for model in get(f"{running.url}/models").json()["models"]}
    for name in ("colours", "tags"):
        assert described[name]["novelty"] is True
        assert described[name]["held_out"] == {"images": 199, "alpha": 0.05}
    assert described["plain"]["novelty"] is False
    assert described["plain"]["held_out"] is None


def test_a_novelty_that_is_not_finite_is_the_model_s_failure(inside: Start, tmp_path: Path) -> None:
    """An infinite one would be the strangest of all, and NaN compares with nothing."""
    novel_models.add(tmp_path, "fragile", "single", nan_for_black=True)
    server = inside(model_store=tmp_path)
    assert post(f"{server.url}/classify", content=GREY).status_code == 200
    response = post(f"{server.url}/classify", content=picture(0, 0, 0))
    assert (response.status_code, response.json()["code"]) == (500, "model_failed")
    assert "its novelty is not finite" in response.json()["detail"]
    file = tmp_path / "black.png"
    file.write_bytes(picture(0, 0, 0))
    with pytest.raises(Exception, match="its novelty is not finite"):
        Local(Settings(model_store=tmp_path, device="cpu")).answer("single", [file], {})


def test_a_version_whose_novelty_is_not_the_exported_one_is_not_served(
    inside: Start, novel: Path, tmp_path: Path
) -> None:
    shutil.copytree(novel / "plain", tmp_path / "plain")
    novel_models.add(tmp_path, "wrong", "single", scale=1.1)
    ready = get(f"{inside(model_store=tmp_path).url}/readyz").json()
    assert [model["name"] for model in ready["models"]] == ["plain"]
    assert "novelty" in ready["not_served"]["wrong"]


def test_unknown_images_are_counted_at_the_model_s_own_alpha(running: Inside) -> None:
    def counted() -> list[float]:
        return [
            running.metric(f'labrador_{name}{{model="colours"}}')
            for name in ("unknown_total", "confidence_count")
        ]

    before = counted()
    for alpha in ("", "&alpha=0.9", "&alpha=0.005"):
        for image in (GREY, BETWEEN, STRANGE):
            ask(running, f"{ENDPOINTS['single']}{alpha}", image)
    assert [new - old for new, old in zip(counted(), before, strict=True)] == [3, 9]
    assert running.metric('labrador_baseline_alpha{model="tags"}') == 0.05
    assert running.metric('labrador_baseline_novelty_images{model="tags"}') == 199
    exported = get(f"{running.url}/metrics").text
    for series in ("unknown_total", "baseline_alpha", "baseline_novelty_images"):
        assert f'labrador_{series}{{model="plain"}}' not in exported


def test_the_class_answers_as_the_service_does(
    running: Inside, novel: Path, tmp_path: Path
) -> None:
    file = tmp_path / "between.png"
    file.write_bytes(BETWEEN)
    local = Local(Settings(model_store=novel, device="cpu"))
    asked: tuple[tuple[Task, dict[str, Any]], ...] = (
        ("single", {"model": "colours"}),
        ("single", {"model": "colours", "alpha": 0.5, "coverage": 0.9}),
        ("multi", {"model": "tags", "alpha": 0.5}),
        ("single", {"model": "plain"}),
    )
    for task, parameters in asked:
        query = "&".join(f"{name}={value}" for name, value in parameters.items())
        path = ENDPOINTS[task].partition("?")[0]
        answer = local.answer(task, [file], parameters)
        assert answer == ask(running, f"{path}?{query}", BETWEEN)


def test_answers_are_as_the_api_documentation_describes_them(running: Inside) -> None:
    paths = openapi.specification(Settings())["paths"]
    files = [("image", GREY), ("image", STRANGE)]
    for path, query in (
        ("/classify", "model=colours&coverage=0.9&alpha=0.1"),
        ("/tag", "model=tags"),
    ):
        operation = paths[path]["post"]
        schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
        url = f"{running.url}{path}?{query}"
        several = post(url, files=files).json()
        for answer in (post(url, content=GREY).json(), several):
            assert problem(answer, schema) is None
        several["results"][0]["novelty"]["p_value"] = "small"
        assert problem(several, schema)
        names = {parameter["name"] for parameter in operation["parameters"]}
        assert {"alpha"} <= names and ("coverage" in names) == (path == "/classify")
        form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
        assert names - {"X-Timeout-Ms"} <= form["properties"].keys()


def test_judging_needs_what_the_bundle_promises(novel: Path) -> None:
    manifest: Manifest = novel_models.content("colours", 1, "single")[0]
    scores = np.array([0.5, 0.3, 0.2], np.float32)
    assert judged(Output(scores), manifest, novel_models.held_out("single")) is None
    found = judged(Output(scores, np.float32(9)), manifest, novel_models.held_out("single"))
    assert json.dumps(found and found.p_value) == "0.005"
