import os
import subprocess
import sys
from pathlib import Path

import pytest

from models.bundle import read, write_atomically
from models.errors import BundleError
from models.manifest import Manifest
from models.store import DEFAULT_ROOT, Store
from testkit.bundles import FILES, manifest, written


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "bundles")


def make(version: int) -> tuple[Manifest, dict[str, bytes]]:
    return manifest(version=version), FILES


def refused(store: Store, reference: str) -> str:
    with pytest.raises(BundleError) as caught:
        store.path(reference)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_store_without_a_folder_is_empty(store: Store) -> None:
    assert store.names() == []
    assert store.versions("pets") == []
    assert refused(store, "pets") == f"no model pets in {store.root}; there are: none"


def test_the_default_store_is_inside_the_package() -> None:
    assert Store().root == DEFAULT_ROOT
    assert DEFAULT_ROOT.parts[-2:] == ("models", "bundles")


def test_versions_count_from_one_and_only_the_first_is_released(store: Store) -> None:
    paths = [store.add("pets", make) for _ in range(3)]
    assert [path.name for path in paths] == ["1", "2", "3"]
    assert [read(path).manifest.version for path in paths] == [1, 2, 3]
    assert store.versions("pets") == [1, 2, 3]
    assert store.released("pets") == 1
    assert store.path("pets") == store.root / "pets" / "1"


def test_versions_are_sorted_as_numbers(store: Store) -> None:
    for number in (10, 9, 100, 1):
        written(store.root / "pets" / str(number))
    assert store.versions("pets") == [1, 9, 10, 100]
    assert store.add("pets", make).name == "101"


def test_any_version_can_be_released(store: Store) -> None:
    for _ in range(3):
        store.add("pets", make)
    for version in (3, 1, 2):
        store.release("pets", version)
        assert store.released("pets") == version
        assert store.path("pets").name == str(version)
        assert (store.root / "pets" / "RELEASED").read_text() == f"{version}\n"


def test_a_version_can_be_named_whatever_is_released(store: Store) -> None:
    for _ in range(2):
        store.add("pets", make)
    assert store.path("pets:2") == store.root / "pets" / "2"
    (store.root / "pets" / "RELEASED").unlink()
    assert store.path("pets:2") == store.root / "pets" / "2"


def test_names_are_sorted_and_have_bundles(store: Store) -> None:
    for name in ("voc", "a-b_1", "pets"):
        store.add(name, lambda version: make(version))
    (store.root / "empty").mkdir()
    (store.root / "Upper").mkdir()
    (store.root / "file").write_bytes(b"")
    (store.root / ".hidden").mkdir()
    assert store.names() == ["a-b_1", "pets", "voc"]


def test_unfinished_and_stray_entries_are_not_versions(store: Store) -> None:
    store.add("pets", make)
    folder = store.root / "pets"
    for name in (".unfinished-x", "0", "02", "-1", "3x", "1.5", "latest", "\u0663", "1234567890"):
        written(folder / name)
    (folder / "notes.txt").write_bytes(b"")
    (folder / "7").mkdir()
    assert store.versions("pets") == [1]


def test_the_number_of_an_incomplete_version_is_not_reused(store: Store) -> None:
    """An interrupted copy has a number but no manifest: it must not block later bundles."""
    store.add("pets", make)
    (store.root / "pets" / "2").mkdir()
    (store.root / "pets" / "2" / "model.onnx").write_bytes(b"half")
    assert store.add("pets", make).name == "3"
    assert store.versions("pets") == [1, 3]


def test_unknown_names_and_versions_are_refused_with_the_valid_ones(store: Store) -> None:
    for name in ("pets", "pets", "voc"):
        store.add(name, make)
    assert refused(store, "cars") == f"no model cars in {store.root}; there are: pets, voc"
    assert refused(store, "cars:1") == f"no model cars in {store.root}; there are: pets, voc"
    assert refused(store, "pets:3") == "pets has no version 3; it has 1, 2"
    with pytest.raises(BundleError, match=r"^pets has no version 3; it has 1, 2$"):
        store.release("pets", 3)
    with pytest.raises(BundleError, match="no model cars in .*; there are: pets, voc"):
        store.release("cars", 1)
    assert store.released("pets") == 1


@pytest.mark.parametrize(
    "reference",
    [
        *("", ":1", "pets:", "pets:0", "pets:01", "pets:-1", "pets:1.0", "pets:1:2", "pets:latest"),
        *("Pets", "../pets", "pets/1", "pets\n", " pets", "-pets", "p" * 64, "pets:\u0661"),
        *("pets:1234567890", "p\u00e9ts"),
    ],
)
def test_an_invalid_reference_is_refused(reference: str, store: Store) -> None:
    store.add("pets", make)
    assert refused(store, reference).endswith(" is not a model: use NAME or NAME:VERSION")


@pytest.mark.parametrize("name", ["", "Pets", "../pets", "a/b", "pets\n", "_pets", "p" * 64])
def test_a_bad_name_is_refused_before_anything_is_written(name: str, store: Store) -> None:
    for call in (
        lambda: store.add(name, make),
        lambda: store.versions(name),
        lambda: store.release(name, 1),
        lambda: store.released(name),
    ):
        with pytest.raises(
            BundleError, match="is not a valid name: use 1 to 63 lower-case letters"
        ):
            call()
    assert not store.root.exists()


@pytest.mark.parametrize("content", [b"", b"2\n", b"one", b"01", b"1 2", b"\xff\xfe", b"9" * 500])
def test_a_released_file_that_names_no_version_is_refused(content: bytes, store: Store) -> None:
    store.add("pets", make)
    (store.root / "pets" / "RELEASED").write_bytes(content)
    message = refused(store, "pets")
    assert message.endswith("; versions of pets: 1")
    assert len(message) < len(str(store.root)) + 120


def test_without_a_released_version_path_raises_and_the_next_bundle_is_released(
    store: Store,
) -> None:
    """As after an export that was killed between writing the bundle and releasing it."""
    store.add("pets", make)
    (store.root / "pets" / "RELEASED").unlink()
    assert "pets has versions, but none is released" in refused(store, "pets")
    store.add("pets", make)
    assert store.released("pets") == 2


def test_a_bundle_that_cannot_be_made_leaves_the_store_as_it_was(store: Store) -> None:
    store.add("pets", make)

    def broken(version: int) -> tuple[Manifest, dict[str, bytes]]:
        return manifest(version=version), FILES | {"unlisted.txt": b""}

    with pytest.raises(BundleError, match="does not list these files"):
        store.add("pets", broken)
    assert store.versions("pets") == [1]
    assert sorted(p.name for p in (store.root / "pets").iterdir()) == ["1", "RELEASED"]


def test_a_number_taken_meanwhile_is_skipped_and_the_bundle_made_again(store: Store) -> None:
    asked = []

    def overtaken(version: int) -> tuple[Manifest, dict[str, bytes]]:
        asked.append(version)
        if len(asked) < 3:
            store.add("pets", make)
        files = FILES | {"model.onnx": b"slow"}
        return manifest(files, version=version), files

    assert store.add("pets", overtaken).name == "3"
    assert asked == [1, 2, 3]
    assert [read(store.path(f"pets:{n}")).model for n in (1, 2)] == [FILES["model.onnx"]] * 2
    assert read(store.path("pets:3")).manifest.version == 3


def test_chosen_names_are_one_or_all_and_never_none(store: Store) -> None:
    with pytest.raises(BundleError, match=r"^there is no model in .*\$LABRADOR_MODEL_STORE$"):
        store.chosen(None)
    for name in ("voc", "pets"):
        store.add(name, make)
    assert store.chosen(None) == ["pets", "voc"]
    assert store.chosen("voc") == ["voc"]
    with pytest.raises(BundleError, match="no model cars in .*; there are: pets, voc"):
        store.chosen("cars")


def test_a_version_is_released_since_its_release(store: Store) -> None:
    for _ in range(2):
        store.add("pets", make)
    file = store.root / "pets" / "RELEASED"
    os.utime(file, (1_700_000_000, 1_700_000_000))
    assert store.released_since("pets") == "2023-11-14T22:13:20+00:00"
    store.release("pets", 2)
    assert store.released_since("pets") > "2023-11-14T22:13:20+00:00"


def test_any_version_but_the_released_one_can_be_removed(store: Store) -> None:
    for _ in range(3):
        store.add("pets", make)
    with pytest.raises(BundleError, match="pets:1 is released: release another version first"):
        store.remove("pets", 1)
    with pytest.raises(BundleError, match="pets has no version 4; it has 1, 2, 3"):
        store.remove("pets", 4)
    store.remove("pets", 2)
    assert store.versions("pets") == [1, 3]
    assert sorted(p.name for p in (store.root / "pets").iterdir()) == ["1", "3", "RELEASED"]


def test_a_version_behind_a_symbolic_link_is_removed_without_what_it_points_to(
    store: Store, tmp_path: Path
) -> None:
    store.add("pets", make)
    elsewhere = written(tmp_path / "elsewhere")
    (store.root / "pets" / "2").symlink_to(elsewhere)
    store.remove("pets", 2)
    assert store.versions("pets") == [1]
    assert read(elsewhere).files == FILES


def test_a_version_that_is_released_while_it_is_removed_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        store.add("pets", make)
    rename = Path.rename

    def released_first(path: Path, target: Path) -> Path:
        monkeypatch.undo()
        store.release("pets", 2)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", released_first)
    with pytest.raises(BundleError, match="^pets:2 was released in the meantime: it stays$"):
        store.remove("pets", 2)
    assert read(store.path("pets")).manifest.version == 2
    assert sorted(p.name for p in (store.root / "pets").iterdir()) == ["1", "2", "RELEASED"]


def test_a_version_that_is_removed_while_it_is_released_is_not_released(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        store.add("pets", make)

    def removed_first(path: Path, data: bytes) -> None:
        monkeypatch.undo()
        store.remove("pets", 2)
        write_atomically(path, data)

    monkeypatch.setattr("models.bundle.write_atomically", removed_first)
    with pytest.raises(BundleError, match="pets/2 was removed in the meantime$"):
        store.release("pets", 2)
    assert store.released("pets") == 1


ADDER = """
import sys, time
from pathlib import Path
from models.store import Store
from testkit.bundles import FILES, manifest

root, mark = Path(sys.argv[1]), sys.argv[2]
(root / f"ready-{mark}").touch()
while len(list(root.glob("ready-*"))) < 2:
    time.sleep(0.001)
for number in range(10):
    files = FILES | {"model.onnx": f"{mark}{number}".encode()}
    Store(root).add("pets", lambda version: (manifest(files, version=version), files))
"""


def test_two_processes_that_add_bundles_concurrently_lose_nothing(tmp_path: Path) -> None:
    adders = [
        subprocess.Popen(
            [sys.executable, "-c", ADDER, str(tmp_path), mark], cwd=Path(__file__).parents[2]
        )
        for mark in "ab"
    ]
    assert [adder.wait(timeout=60) for adder in adders] == [0, 0]
    store = Store(tmp_path)
    assert store.versions("pets") == list(range(1, 21))
    bundles = [read(store.path(f"pets:{version}")) for version in store.versions("pets")]
    assert [found.manifest.version for found in bundles] == list(range(1, 21))
    models = sorted(found.model.decode() for found in bundles)
    assert models == [f"{mark}{number}" for mark in "ab" for number in range(10)]
    assert store.released("pets") in (1, 2)
    assert not list((tmp_path / "pets").glob(".unfinished-*"))
