import errno
import os
import time
from pathlib import Path

import pytest

from models import captured
from models.bundle import sha256
from models.captured import Captured
from serving.capture.captured_folder import DAY_S, CapturedFolder, check_usable

MIB = 2**20
PICTURE = b"a picture, as far as the folder knows"


def answer(content: bytes = PICTURE, model: str = "pets") -> Captured:
    digest = sha256(content)
    return Captured(
        sha256=digest,
        file=f"{digest}.jpg",
        time="2026-01-01T00:00:00+00:00",
        why=("random",),
        model=model,
        version=3,
        task="single",
        labels=("cat",),
        scores={"cat": 0.75, "dog": 0.25},
    )


def folder(root: Path, max_bytes: int = MIB, days: float = 1) -> CapturedFolder:
    return CapturedFolder(root, max_bytes, days)


def age(days: float, *files: Path) -> None:
    then_s = time.time() - days * DAY_S
    for file in files:
        os.utime(file, (then_s, then_s))


def names(root: Path) -> list[str]:
    return sorted(file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file())


def kept(root: Path, *contents: bytes) -> list[Path]:
    """The images with these contents, kept; the first is the oldest, by an hour each."""
    pictures = []
    for number, content in enumerate(contents):
        own = answer(content)
        assert folder(root, 10**9, 10**9).keep(own, content)
        pictures.append(root / "pets" / own.file)
        hours = len(contents) - number
        age(hours / 24, pictures[-1], pictures[-1].with_suffix(".json"))
    return pictures


def test_an_image_and_its_answer_lie_in_the_folder_of_its_model(tmp_path: Path) -> None:
    own = answer()
    assert folder(tmp_path).keep(own, PICTURE)
    assert names(tmp_path) == [
        "pets/CAPTURED",
        f"pets/{own.sha256}.jpg",
        f"pets/{own.sha256}.json",
    ]
    assert (tmp_path / "pets" / own.file).read_bytes() == PICTURE
    assert captured.read(tmp_path / "pets" / f"{own.sha256}.json") == own


def test_nobody_but_the_owner_and_the_group_can_read_it(tmp_path: Path) -> None:
    folder(tmp_path).keep(answer(), PICTURE)
    for path in tmp_path.rglob("*"):
        assert path.stat().st_mode & 0o007 == 0


def test_the_same_bytes_are_kept_once_also_by_another_worker(tmp_path: Path) -> None:
    assert folder(tmp_path).keep(answer(), PICTURE)
    assert not folder(tmp_path).keep(answer(), PICTURE)
    assert len(names(tmp_path)) == 3


def test_the_answer_comes_first_and_a_crash_leaves_nothing_that_counts_as_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, seen = os.replace, []

    def crash(source: str, target: Path) -> None:
        if target.suffix == ".jpg":
            seen.extend(names(tmp_path))
            raise KeyboardInterrupt
        whole(source, target)

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        folder(tmp_path).keep(answer(), PICTURE)
    assert f"pets/{answer().sha256}.json" in seen
    monkeypatch.undo()
    assert not list(tmp_path.rglob("*.jpg"))
    age(2, tmp_path / "pets" / f"{answer().sha256}.json")
    folder(tmp_path).tidy()
    assert names(tmp_path) == ["pets/CAPTURED"]


def test_what_is_older_than_the_days_kept_is_removed(tmp_path: Path) -> None:
    old, new = kept(tmp_path, b"old", b"new")
    age(1.1, old, old.with_suffix(".json"))
    tidied = folder(tmp_path, days=1)
    tidied.tidy()
    assert not old.exists()
    assert not old.with_suffix(".json").exists()
    assert new.exists()
    assert tidied.held_bytes == sum(f.stat().st_size for f in (new, new.with_suffix(".json")))


def test_beyond_its_size_the_oldest_are_removed_also_those_of_other_workers(
    tmp_path: Path,
) -> None:
    first, second, third = kept(tmp_path, b"1" * 1000, b"2" * 1000, b"3" * 1000)
    pair = first.stat().st_size + first.with_suffix(".json").stat().st_size
    full = folder(tmp_path, max_bytes=3 * pair)
    full.tidy()
    assert first.exists()
    assert full.keep(answer(b"4" * 1000), b"4" * 1000)
    assert not first.exists()
    assert [second.exists(), third.exists()] == [True, True]
    assert full.held_bytes == 3 * pair


def test_nothing_that_the_capture_did_not_write_is_ever_removed(tmp_path: Path) -> None:
    (mine,) = kept(tmp_path, b"mine")
    pets, digest = tmp_path / "pets", "0" * 64
    elsewhere = tmp_path / "elsewhere.jpg"
    others = [
        pets / "notes.txt",
        pets / "cat.jpg",
        pets / f"{digest}.jpg",  # no answer is beside it
        pets / f"{'1' * 64}.json",  # not an answer
        pets / f"{'1' * 64}.png",
        pets / f"{'2' * 64}.json",  # another image's answer
        tmp_path / "photos" / f"{mine.stem}.jpg",  # in a folder that is not the capture's
        tmp_path / "photos" / f"{mine.stem}.json",
        elsewhere,
    ]
    (tmp_path / "photos").mkdir()
    for file in others:
        file.write_bytes(b"{}")
    (pets / f"{'2' * 64}.json").write_bytes(mine.with_suffix(".json").read_bytes())
    (tmp_path / "photos" / f"{mine.stem}.json").write_bytes(mine.with_suffix(".json").read_bytes())
    linked = answer(b"linked")  # a link to an answer is not one, wherever it leads
    elsewhere.write_text(linked.model_dump_json())
    link = pets / f"{linked.sha256}.json"
    link.symlink_to(elsewhere)
    age(100, *others, mine, mine.with_suffix(".json"))
    folder(tmp_path, max_bytes=1, days=1).tidy()
    assert not mine.exists()
    assert all(file.exists() for file in others)
    assert link.is_symlink()


def test_what_a_crash_left_unfinished_is_removed_after_a_while(tmp_path: Path) -> None:
    kept(tmp_path, PICTURE)
    young, old = tmp_path / "pets" / ".unfinished-young", tmp_path / "pets" / ".unfinished-old"
    for file in (young, old):
        file.write_bytes(b"half")
    age(1 / 12, old)
    folder(tmp_path).tidy()
    assert young.exists()
    assert not old.exists()


@pytest.mark.parametrize("fault", ["read_bytes", "unlink"])
def test_what_cannot_be_read_or_removed_keeps_nothing_else(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = kept(tmp_path, b"1" * 1000, b"2" * 1000, b"3" * 1000)
    left, gone = tmp_path / "pets" / ".unfinished-left", tmp_path / "pets" / ".unfinished-old"
    for file in (left, gone):
        file.write_bytes(b"half")
    age(1, left, gone)
    pair = first.stat().st_size + first.with_suffix(".json").stat().st_size
    whole, stuck = getattr(Path, fault), (first, first.with_suffix(".json"), left)

    def refuses(file: Path, **given: bool) -> object:
        if file in stuck:
            raise PermissionError(errno.EPERM, "no", str(file))
        return whole(file, **given)

    monkeypatch.setattr(Path, fault, refuses)
    tidied = folder(tmp_path, max_bytes=2 * pair)
    with pytest.raises(PermissionError):
        tidied.tidy()
    assert [one.exists() for one in (first, second, third)] == [True, False, True]
    assert not gone.exists()
    assert tidied.held_bytes == 2 * pair  # what stays takes its room


def test_a_folder_that_is_gone_is_not_made_again(tmp_path: Path) -> None:
    gone = tmp_path / "mount"
    with pytest.raises(FileNotFoundError):
        folder(gone).keep(answer(), PICTURE)
    folder(gone).tidy()
    assert not gone.exists()


def test_whether_it_can_be_used_is_tried(tmp_path: Path) -> None:
    check_usable(tmp_path / "new")
    assert names(tmp_path) == []
    assert (tmp_path / "new").is_dir()
    with pytest.raises(FileNotFoundError):
        check_usable(tmp_path / "missing" / "new")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileExistsError):
        check_usable(tmp_path / "file")
