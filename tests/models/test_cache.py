"""A cache of bundles that processes share."""

import fcntl
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from models.storage.cache import Cache, default_folder

KEYS = ("a", "b", "c")
SIZE_BYTES = 2**20


def filled(root: Path, size_mb: float) -> Cache:
    """Three entries of 1 MiB, of which `a` was used first and `c` last."""
    cache = Cache(root, size_mb)
    for number, key in enumerate(KEYS):
        with cache.held(key) as entry:
            (entry / "pets" / "1").mkdir(parents=True)
            (entry / "pets" / "1" / "model.onnx").write_bytes(bytes(SIZE_BYTES))
        os.utime(root / key, (number, number))
    return cache


def left(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


@pytest.mark.parametrize(
    ("size_mb", "needed", "kept"),
    [
        (4, SIZE_BYTES, ["a", "b", "c"]),
        (4, SIZE_BYTES + 1, ["b", "c"]),
        (3, 0, ["a", "b", "c"]),
        (2.5, 0, ["b", "c"]),
        (2, SIZE_BYTES, ["c"]),
        (1, 9 * SIZE_BYTES, []),
        (0, 0, []),
    ],
)
def test_what_was_not_used_for_longest_makes_room(
    size_mb: float, needed: int, kept: list[str], tmp_path: Path
) -> None:
    filled(tmp_path, size_mb).make_room(needed)
    assert left(tmp_path) == kept


def test_what_was_used_again_stays(tmp_path: Path) -> None:
    cache = filled(tmp_path, 2)
    with cache.held("a"):
        pass
    cache.make_room(0)
    assert left(tmp_path) == ["a", "c"]


def test_what_is_held_stays(tmp_path: Path) -> None:
    cache = filled(tmp_path, 0)
    with cache.held("b") as entry:
        Cache(tmp_path, 0).make_room(0)
        assert left(tmp_path) == ["b"]
        assert (entry / "pets" / "1" / "model.onnx").stat().st_size == SIZE_BYTES
    cache.make_room(0)
    assert left(tmp_path) == []


def test_an_entry_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    cache, inside = Cache(tmp_path, 1), list[str]()
    held, leave = Event(), Event()

    def first() -> None:
        with cache.held("a"):
            held.set()
            leave.wait(10)
            inside.append("first")

    def second() -> None:
        with cache.held("a"):
            inside.append("second")

    with ThreadPoolExecutor(2) as pool:
        pool.submit(first)
        held.wait(10)
        waiting = pool.submit(second)
        with cache.held("b"):  # others are free
            assert not inside
        leave.set()
        waiting.result(10)
    assert inside == ["first", "second"]


def test_an_entry_that_was_removed_while_it_was_waited_for_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, lock = filled(tmp_path, 0), fcntl.flock

    def removed_first(handle: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        Cache(tmp_path, 0).make_room(0)
        lock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", removed_first)
    with cache.held("a") as entry:
        assert entry.is_dir()
        assert list(entry.iterdir()) == []
        Cache(tmp_path, 0).make_room(0)
        (entry / "pets").mkdir()  # it is still there


def test_an_entry_that_was_made_again_before_it_was_locked_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, lock = filled(tmp_path, 0), fcntl.flock

    def made_again_first(handle: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        shutil.rmtree(tmp_path / "a")
        (tmp_path / "a" / "pets").mkdir(parents=True)
        lock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", made_again_first)
    cache.make_room(0)
    assert left(tmp_path) == ["a"]


def test_without_a_folder_there_is_nothing_to_remove(tmp_path: Path) -> None:
    Cache(tmp_path / "none", 0).make_room(1)
    assert not (tmp_path / "none").exists()


def test_it_lies_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABRADOR_CACHE", str(tmp_path))
    assert default_folder() == tmp_path / "bundles"
    monkeypatch.delenv("LABRADOR_CACHE")
    assert default_folder() == Path.home() / ".cache" / "labrador" / "bundles"
