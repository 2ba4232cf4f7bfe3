"""What needs no cluster: the actor's tables, and a driver to which rows are lost."""

import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from models import bundle
from serving.cluster import actor, predict
from serving.cluster.actor import ATTEMPTS, Actor, Job
from serving.cluster.connection import ClusterError
from serving.cluster.pieces import Piece
from serving.cluster.places import File
from serving.settings import Settings
from testkit import tiny_models

NAMES = [f"{number}.jpg" for number in range(5)]


def remote(call: Callable[..., Any]) -> SimpleNamespace:
    """As a method of Ray's actors, with the result itself in the place of a reference."""
    return SimpleNamespace(remote=call)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in NAMES:
        (tmp_path / "images" / name).write_bytes(tiny_models.picture())
    return tmp_path / "images"


@pytest.fixture
def tables(
    store: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[int], list[list[dict[str, Any]]]]:
    """The rows of each table of a piece with all images, at its attempt of this number."""
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(get=lambda value: value))
    whole = bundle.read(store / "colours" / "1")
    piece = pickle.dumps(Piece(tuple(map(File, NAMES))))

    def tables(attempt: int) -> list[list[dict[str, Any]]]:
        keeper = SimpleNamespace(bundle=remote(lambda: whole), attempt=remote(lambda _: attempt))
        made = Actor(Job(keeper, Settings(device="cpu", max_batch=1), images, []))
        return [table.to_pylist() for table in made({"piece": [piece], "number": [3]})]

    return tables


def test_the_last_attempt_at_a_piece_scores_it_and_then_its_images_have_errors(
    tables: Callable[[int], list[list[dict[str, Any]]]],
) -> None:
    (scored,), (given_up,) = tables(ATTEMPTS), tables(ATTEMPTS + 1)
    assert [(row["path"], row["error"], row["predicted"]) for row in scored] == [
        (name, None, "red") for name in NAMES
    ]
    assert [row["path"] for row in given_up] == NAMES
    assert {(row["error"], row["predicted"]) for row in given_up} == {
        ("internal: 5 processes died at this image, or at one beside it", None)
    }


def test_a_table_is_given_away_as_soon_as_it_has_enough_rows(
    tables: Callable[[int], list[list[dict[str, Any]]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actor, "_ROWS", 2)
    found = tables(1)
    assert [len(rows) for rows in found] == [2, 2, 1]
    assert [row["path"] for rows in found for row in rows] == NAMES


def test_images_without_a_row_are_counted_and_the_others_kept(
    store: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if Ray had lost some, which it should not."""

    @contextmanager
    def connected(address: str) -> Iterator[Any]:
        yield SimpleNamespace(nodes=lambda: [{"Alive": True, "Resources": {"CPU": 1}}])

    def scored(ray: Any, job: Job, found: Any, workers: Any) -> Iterator[Any]:
        from serving.cluster.parts import table
        from serving.scoring import Row

        yield table([Row(str(images / NAMES[0]), error="lost")], job.keeper.manifest)

    keeping = SimpleNamespace(kept=lambda whole: whole)
    monkeypatch.setitem(sys.modules, "serving.cluster.keeper", keeping)
    monkeypatch.setattr(predict, "connected", connected)
    monkeypatch.setattr(predict, "_scored", scored)
    settings = Settings(model_store=store)
    with pytest.raises(ClusterError, match="^4 images have no row: run the same command again$"):
        predict.predict("colours", [images], tmp_path / "out", settings, "", quiet=True)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["part-00000.parquet"]
