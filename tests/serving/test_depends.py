"""`bentoml.depends(Labrador)` from another BentoML service: the answers of HTTP, no pickle read."""

import json
import pickle
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from testkit import novel_models, tiny_models
from testkit.in_process import Inside
from testkit.servers import Server, post, serve
from testkit.waiting import until


@pytest.fixture(scope="module")
def novel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("novel")
    novel_models.add(folder, "colours", "single")
    novel_models.add(folder, "tags", "multi")
    return folder


@pytest.fixture(scope="module")
def outer(novel: Path) -> Iterator[Server]:
    with (
        tempfile.TemporaryDirectory() as folder,  # a socket's path is 103 characters at most
        serve(
            Path(folder), service="testkit.dependent_service:Outer", model_store=novel
        ) as running,
    ):
        loaded = "runs in fp32 on CPUExecutionProvider"
        until(lambda: running.log().count(loaded) == 2)
        yield running


@pytest.mark.parametrize(
    ("endpoint", "images", "fields"),
    [
        ("classify", 1, {}),
        ("classify", 3, {"top_k": "2"}),
        ("classify", 2, {"alpha": "0.5", "coverage": "0.9"}),
        ("tag", 1, {"threshold": "0.001"}),
        ("tag", 2, {}),
    ],
)
def test_another_service_gets_the_answers_of_http(
    outer: Server,
    inside: Callable[..., Inside],
    novel: Path,
    endpoint: str,
    images: int,
    fields: dict[str, str],
) -> None:
    server = inside(model_store=novel)
    colours = ((200, 30, 30), (30, 200, 30), (30, 30, 200))
    form: dict[str, Any] = {
        "files": [("image", tiny_models.picture(colour)) for colour in colours[:images]],
        "data": fields,
    }
    through, direct = (post(f"{s.url}/{endpoint}", **form) for s in (outer, server))
    assert direct.status_code == 200
    (got, got_numbers), (expected, expected_numbers) = (_parsed(r.text) for r in (through, direct))
    assert got == expected
    assert direct.text.count('"novelty"') == images
    assert direct.text.count('"set"') == ("coverage" in fields) * images
    assert len(got_numbers) >= images
    assert got_numbers == pytest.approx(expected_numbers, abs=1e-5)  # batches may be others


def _parsed(text: str) -> tuple[Any, list[float]]:
    """The JSON without its floats, and those."""
    numbers: list[float] = []
    return json.loads(text, parse_float=lambda number: numbers.append(float(number))), numbers


def test_another_service_gets_the_problem_as_an_error(outer: Server) -> None:
    refused = post(f"{outer.url}/classify", files=[("image", b"no image")])
    assert "image_undecodable" in refused.text


def test_a_pickle_from_anybody_is_not_opened(inside: Callable[..., Inside], tmp_path: Path) -> None:
    """Neither as BentoML's services send it, nor under the header by which we answer one."""
    trap = tmp_path / "trap"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (trap,)

    service = inside()
    for kind in (
        "application/vnd.bentoml+pickle",
        "application/vnd.bentoml+pickle; answer=pickle",
        "image/jpeg; answer=pickle",
    ):
        answer = post(
            f"{service.url}/classify", content=pickle.dumps(Bomb()), headers={"Content-Type": kind}
        )
        assert answer.status_code in (415, 422)
        assert answer.headers["content-type"] == "application/problem+json"
    assert not trap.exists()
