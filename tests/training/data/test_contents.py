from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from testkit.opens import opened
from training.data import contents as module
from training.data.contents import Contents

TEN = b"0123456789"


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Three files of ten bytes, all different."""
    made = [tmp_path / f"{number}.jpg" for number in range(3)]
    for number, file in enumerate(made):
        file.write_bytes(TEN[number:] + TEN[:number])
    return made


def test_a_file_that_was_read_is_not_opened_again(files: list[Path]) -> None:
    contents = Contents(room_bytes=30)
    with opened() as opens:
        read = [contents.read(file) for file in files]
        taken = [contents.take(file) for file in files]
    assert read == taken == [file.read_bytes() for file in files]
    assert [opens.count(file) for file in files] == [1, 1, 1]


def test_what_does_not_fit_is_opened_a_second_time(files: list[Path]) -> None:
    contents = Contents(room_bytes=29)
    with opened() as opens:
        read = [contents.read(file) for file in files]
        taken = [contents.take(file) for file in files]
    assert read == taken
    assert [opens.count(file) for file in files] == [1, 1, 2]


def test_what_is_taken_makes_room(files: list[Path]) -> None:
    contents = Contents(room_bytes=10)
    with opened() as opens:
        for file in files:
            contents.read(file)
            contents.take(file)
    assert [opens.count(file) for file in files] == [1, 1, 1]


def test_what_is_taken_is_no_longer_kept(files: list[Path]) -> None:
    contents = Contents(room_bytes=30)
    contents.read(files[0])
    with opened() as opens:
        assert contents.take(files[0]) == contents.take(files[0]) == TEN
    assert opens.count(files[0]) == 1


def test_what_is_cleared_is_read_again_and_makes_room(files: list[Path]) -> None:
    contents = Contents(room_bytes=20)
    for file in files[:2]:
        contents.read(file)
    contents.clear()
    with opened() as opens:
        contents.take(files[0])
        for file in files[1:]:
            contents.read(file)
            contents.read(file)
        for file in files[1:]:
            contents.take(file)
    assert [opens.count(file) for file in files] == [1, 2, 2]


def test_a_quarter_of_the_free_memory_is_used(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for free_bytes, times in ((40, 1), (39, 2)):
        monkeypatch.setattr(module, "free_memory", lambda free=free_bytes: free)
        contents = Contents()
        with opened() as opens:
            contents.read(files[0])
            contents.take(files[0])
        assert opens.count(files[0]) == times


def test_threads_that_read_together_take_no_more_room_than_there_is(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.jpg" for number in range(200)]
    for file in files:
        file.write_bytes(TEN)
    contents = Contents(room_bytes=1000)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(contents.read, files))
        with opened() as opens:
            assert set(pool.map(contents.take, files)) == {TEN}
    assert sum(opens.count(file) for file in files) == 100


def test_a_file_that_is_gone_is_an_error_unless_it_was_kept(files: list[Path]) -> None:
    contents = Contents(room_bytes=30)
    contents.read(files[0])
    for file in files[:2]:
        file.unlink()
    assert contents.take(files[0]) == TEN
    for read in (contents.read, contents.take):
        with pytest.raises(FileNotFoundError):
            read(files[1])
