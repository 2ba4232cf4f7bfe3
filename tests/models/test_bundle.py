import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from models import bundle
from models.bundle import read, read_manifest, write, write_atomically
from models.errors import BundleError
from models.store import Store
from testkit.bundles import FILES, manifest, multi, values, written

ALL_FILES = [*FILES, "manifest.json", "manifest.sha256"]


def refused(path: Path) -> str:
    """The error for the bundle, which is always one line."""
    with pytest.raises(BundleError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def replace_manifest(path: Path, text: str) -> None:
    """Replace the manifest and its hash, so that only its content can be refused."""
    (path / "manifest.json").write_text(text, encoding="utf-8")
    line = f"{bundle.sha256(text.encode())}  manifest.json\n"
    (path / "manifest.sha256").write_text(line, encoding="utf-8")


def test_a_written_bundle_is_read_back(tmp_path: Path) -> None:
    path = written(tmp_path / "pets" / "1", **multi())
    found = read(path)
    assert found.manifest == manifest(**multi())
    assert found.files == FILES
    assert (found.path, found.model) == (path, FILES["model.onnx"])


def test_a_bundle_has_its_files_its_manifest_and_its_hash_and_is_readable_by_others(
    tmp_path: Path,
) -> None:
    path = written(tmp_path / "pets" / "1")
    present = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()}
    assert present == set(ALL_FILES)
    assert path.stat().st_mode & 0o777 == 0o755
    assert [p.name for p in path.parent.iterdir()] == ["1"]


def test_files_may_be_in_nested_folders(tmp_path: Path) -> None:
    files = FILES | {"notes/2030/june.txt": b"warm"}
    assert read(written(tmp_path / "1", files)).files == files


def test_a_synced_folder_is_closed_again(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    bundle.sync_folder(tmp_path)
    assert os.listdir("/proc/self/fd") == before


def test_a_manifest_is_indented_for_people(tmp_path: Path) -> None:
    text = (written(tmp_path / "1") / "manifest.json").read_text()
    assert text.startswith('{\n  "schema_version": 1,\n  "name": "pets",\n')


def test_sha256sum_can_check_the_manifest(tmp_path: Path) -> None:
    path = written(tmp_path / "1")
    command = ["sha256sum", "--check", "--strict", "manifest.sha256"]
    assert subprocess.run(command, cwd=path, capture_output=True).returncode == 0


def test_files_that_the_manifest_does_not_list_are_not_written(tmp_path: Path) -> None:
    for files in (FILES | {"more.txt": b""}, FILES | {"model.onnx": b"another network"}):
        with pytest.raises(BundleError, match="does not list these files"):
            write(tmp_path / "1", manifest(), files)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["manifest.json", "manifest.sha256"])
def test_a_file_named_like_the_manifest_is_not_written(name: str, tmp_path: Path) -> None:
    files = FILES | {name: b"{}"}
    with pytest.raises(OSError, match=name):
        write(tmp_path / "1", manifest(files), files)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ALL_FILES)
def test_a_flipped_bit_anywhere_in_any_file_is_refused_and_the_file_named(
    name: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "1")
    whole = (path / name).read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 40)):
        flipped = bytearray(whole)
        flipped[at] ^= 1
        (path / name).write_bytes(flipped)
        assert f"{path / name.replace('.sha256', '.json')} is corrupt" in refused(path)
    (path / name).write_bytes(whole)
    read(path)


@pytest.mark.parametrize("name", ALL_FILES)
def test_a_truncated_or_extended_file_is_refused(name: str, tmp_path: Path) -> None:
    path = written(tmp_path / "1")
    whole = (path / name).read_bytes()
    for content in (b"", whole[:-1], whole + b"\0"):
        if content != whole:
            (path / name).write_bytes(content)
            assert "is corrupt" in refused(path)


def test_swapped_labels_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "1")
    raw = json.loads((path / "manifest.json").read_text())
    raw["labels"][0], raw["labels"][1] = raw["labels"][1], raw["labels"][0]
    (path / "manifest.json").write_text(json.dumps(raw, indent=2))
    assert "manifest.json is corrupt" in refused(path)
    with pytest.raises(BundleError, match=r"manifest\.json is corrupt"):
        read_manifest(path)


@pytest.mark.parametrize("name", ALL_FILES)
def test_a_missing_file_is_refused_and_named(name: str, tmp_path: Path) -> None:
    path = written(tmp_path / "1")
    (path / name).unlink()
    assert f"{path / name} cannot be read" in refused(path)


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "1")
    (path / "report.html").unlink()
    (path / "report.html").mkdir()
    assert "report.html cannot be read" in refused(path)


@pytest.mark.parametrize("name", ["extra.txt", "golden/extra.jpg", "deep/er/x", ".hidden"])
def test_a_file_that_is_not_listed_is_refused_and_named(name: str, tmp_path: Path) -> None:
    path = written(tmp_path / "1")
    (path / name).parent.mkdir(parents=True, exist_ok=True)
    (path / name).write_bytes(b"")
    assert refused(path) == f"{path / name} is not listed in manifest.json"


@pytest.mark.parametrize("name", ["model.onnx", "golden", "extra", "manifest.json"])
def test_a_symbolic_link_is_refused_even_to_the_right_bytes(name: str, tmp_path: Path) -> None:
    path = written(tmp_path / "1")
    place, elsewhere = path / name, tmp_path / "elsewhere"
    if name == "extra":
        elsewhere.mkdir()
    else:
        place.rename(elsewhere)
    place.symlink_to(elsewhere)
    assert refused(path) == f"{place} is a symbolic link; a bundle holds its own files"


def test_a_bundle_behind_a_symbolic_link_is_read(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(written(tmp_path / "1"))
    assert read(tmp_path / "link").files == FILES


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "blue"}, "colour: Extra inputs are not permitted"),
        ({"two\nlines": 1}, "two lines: Extra inputs are not permitted"),
        ({"schema_version": 2}, "schema_version: Input should be 1"),
        ({"labels": ["cat"]}, "is invalid: the text: Value error, baseline.label_share needs one"),
        (
            {"preprocess": {"image_size_px": 2048, "crop_fraction": 1}},
            "is invalid: preprocess.image_size_px: Input should be less",
        ),
        ({"temperature": float("nan")}, "temperature: Input should be a finite number"),
        ({"files": {"../model.onnx": "0" * 64}}, "files does not list"),
        ({"files": values()["files"] | {"../x": "0" * 64}}, "'../x' is not a relative path"),
        ({"training_images": "a\nb"}, "files does not list a b"),
    ],
)
def test_an_invalid_manifest_is_refused_and_the_field_named(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "1")
    replace_manifest(path, json.dumps(values() | change))
    found = refused(path)
    assert found.startswith(f"{path / 'manifest.json'} is invalid: ")
    assert message in found


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"name": "\ud800"}', "[" * 5000])
def test_a_manifest_that_is_not_a_json_object_is_refused(text: str, tmp_path: Path) -> None:
    path = written(tmp_path / "1")
    data = text.encode("utf-8", "surrogatepass")
    (path / "manifest.json").write_bytes(data)
    line = f"{bundle.sha256(data)}  manifest.json\n"
    (path / "manifest.sha256").write_text(line)
    assert "manifest.json is invalid: the text: " in refused(path)


@pytest.mark.parametrize("kind", ["nothing", "empty folder", "file"])
def test_a_path_that_is_not_a_bundle_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "1"
    if kind == "file":
        path.write_bytes(b"")
    elif kind == "empty folder":
        path.mkdir()
    assert refused(path) == f"{path} is not a bundle: {path / 'manifest.json'} cannot be read"


def test_an_existing_bundle_is_never_changed(tmp_path: Path) -> None:
    path = written(tmp_path / "1")
    other = FILES | {"model.onnx": b"another network"}
    with pytest.raises(BundleError, match="already exists; a bundle is never changed"):
        write(path, manifest(other), other)
    assert read(path).files == FILES
    assert [p.name for p in tmp_path.iterdir()] == ["1"]


@pytest.mark.parametrize("kind", ["file", "folder with a file"])
def test_an_existing_path_that_is_not_a_bundle_is_left_alone(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "1"
    inside = path if kind == "file" else path / "mine.txt"
    inside.parent.mkdir(exist_ok=True)
    inside.write_bytes(b"mine")
    with pytest.raises(BundleError, match="already exists"):
        write(path, manifest(), FILES)
    assert inside.read_bytes() == b"mine"
    assert [p.name for p in tmp_path.iterdir()] == ["1"]


# Interruption and disk errors

DRIVER = """
import errno, os, sys
from pathlib import Path
from models.store import Store
from testkit.bundles import FILES, manifest

folder, mode = Path(sys.argv[1]), sys.argv[2]
Store(folder / "warm").add("pets", lambda version: (manifest(), FILES))  # imports are done

def add_and_stop_at(root, last):
    seen = 0
    def hook(event, arguments):
        nonlocal seen
        if event == "open" or event.partition(".")[0] in ("os", "shutil", "tempfile"):
            seen += 1
            if seen == last:
                if mode == "kill":
                    os._exit(9)
                raise OSError(errno.ENOSPC, "no space left on device")
    sys.addaudithook(hook)
    try:
        Store(root).add("pets", lambda version: (manifest(), FILES))
    except OSError:
        os._exit(9)
    os._exit(0 if seen < last else 1)

for last in range(1, 500):
    child = os.fork()
    if child == 0:
        add_and_stop_at(folder / f"stopped-{last}", last)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == 0:
        print(last - 1)
        break
    if code not in (1, 9):  # 1: the error occurred in a clean-up, which may fail
        sys.exit(f"step {last}: {code}")
"""


def stopped_everywhere(tmp_path: Path, mode: str) -> list[Path]:
    """Stores in which adding the first bundle was stopped at its 1st, 2nd, … file operation."""
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path), mode],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    steps = int(done.stdout)
    assert steps > 20  # folders, files, syncs, renames
    return [tmp_path / f"stopped-{step}" for step in range(1, steps + 1)]


def whole_or_absent(root: Path) -> bool:
    """Whether the bundle exists; if so, it must be complete."""
    store = Store(root)
    if not (versions := store.versions("pets")):
        assert not (root / "pets" / "1").exists()
        return False
    assert versions == [1]
    assert read(store.path("pets:1")).files == FILES
    return True


def test_a_bundle_killed_at_any_step_is_whole_or_absent_and_the_next_one_works(
    tmp_path: Path,
) -> None:
    roots = stopped_everywhere(tmp_path, "kill")
    present = [whole_or_absent(root) for root in roots]
    assert set(present) == {False, True}
    assert present == sorted(present)  # once it exists, it exists at all later steps
    for root, was_there in zip(roots, present, strict=True):
        store = Store(root)
        path = store.add("pets", lambda version: (manifest(version=version), FILES))
        assert path.name == ("2" if was_there else "1")
        assert read(path).files == FILES
        assert store.released("pets") in store.versions("pets")


def test_a_disk_error_at_any_step_leaves_nothing_unfinished(tmp_path: Path) -> None:
    for root in stopped_everywhere(tmp_path, "error"):
        whole_or_absent(root)
        left = {p.name for p in (root / "pets").iterdir()} if (root / "pets").is_dir() else set()
        assert left <= {"1", "RELEASED"}, root.name


@pytest.mark.parametrize("function", ["fsync", "rename"])
def test_a_full_disk_raises_and_leaves_nothing_behind(
    function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, function, full)
    with pytest.raises(OSError, match="no space left"):
        write(tmp_path / "1", manifest(), FILES)
    assert not list(tmp_path.iterdir())


def assert_hidden_beside(place: Path, renaming: tuple[object, ...]) -> None:
    """What is renamed to `place` was next to it, on the same disk, under a hidden name."""
    unfinished, target = (Path(str(path)) for path in renaming)
    assert (unfinished.parent, target) == (place.parent, place)
    assert unfinished.name.startswith(".unfinished-")


def test_every_file_and_folder_is_synced_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []

    def recorded(name: str, real: Callable[..., None]) -> Callable[..., None]:
        def step(*arguments: object) -> None:
            if name == "fsync":
                target = Path(os.readlink(f"/proc/self/fd/{arguments[0]}"))
                steps.append(f"{target.name} {target.stat().st_size if target.is_file() else ''}")
            else:
                assert_hidden_beside(tmp_path / "1", arguments)
                steps.append("rename")
            real(*arguments)

        return step

    monkeypatch.setattr(os, "fsync", recorded("fsync", os.fsync))
    monkeypatch.setattr(os, "rename", recorded("rename", os.rename))
    write(tmp_path / "1", manifest(), FILES)
    renamed = steps.index("rename")
    before = steps[:renamed]
    sizes = FILES | {name: (tmp_path / "1" / name).read_bytes() for name in ALL_FILES[-2:]}
    files = sorted(f"{Path(name).name} {len(data)}" for name, data in sizes.items())
    assert sorted(before[: len(files)]) == files
    assert before[len(files) - 1].startswith("manifest.json")
    assert len(before) == len(files) + 2  # the bundle's two folders
    assert steps[renamed + 1 :] == [f"{tmp_path.name} "]


def test_a_replaced_file_is_synced_with_all_its_bytes_before_the_others_see_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[object] = []
    fsync, replace = os.fsync, os.replace

    def synced(handle: int) -> None:
        steps.append(os.fstat(handle).st_size if steps != [3, "replaced"] else "folder")
        fsync(handle)

    def replaced(*paths: str) -> None:
        assert_hidden_beside(tmp_path / "RELEASED", paths)
        steps.append("replaced")
        replace(*paths)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    write_atomically(tmp_path / "RELEASED", b"10\n")
    assert steps == [3, "replaced", "folder"]


def test_an_interrupt_just_after_the_replacement_stays_an_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def interrupted(*paths: str) -> None:
        replace(*paths)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "RELEASED", b"1\n")
    assert [p.name for p in tmp_path.iterdir()] == ["RELEASED"]


def test_a_file_is_replaced_atomically_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "RELEASED"
    write_atomically(file, b"1\n")
    write_atomically(file, b"2\n")
    assert file.read_text() == "2\n"
    assert file.stat().st_mode & 0o777 == 0o644

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    for function in ("fsync", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(os, function, full)
            with pytest.raises(OSError, match="no space left") as caught:
                write_atomically(file, b"3\n")
            assert (caught.value.filename, caught.value.filename2) == (str(file), None)
        assert file.read_text() == "2\n"
        assert [p.name for p in tmp_path.iterdir()] == ["RELEASED"]


# File modes

WRITER = """
import os, sys
from pathlib import Path
from models.store import Store
from testkit.bundles import FILES, manifest

os.umask(int(sys.argv[2], 8))
for _ in range(2):
    Store(Path(sys.argv[1])).add("pets", lambda version: (manifest(version=version), FILES))
Store(Path(sys.argv[1])).release("pets", 2)
"""


@pytest.mark.parametrize("umask", ["000", "002", "022", "027", "077", "777"])
def test_any_user_can_read_a_store_whatever_the_umask_of_its_writer(
    umask: str, tmp_path: Path
) -> None:
    if umask == "777" and os.geteuid() != 0:
        pytest.skip("only root can write into folders that the umask closes to everybody")
    root = tmp_path / "deep" / "store"
    command = [sys.executable, "-c", WRITER, str(root), umask]
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True, timeout=60)
    made = [root.parent, root, *root.rglob("*")]
    assert {"RELEASED", "1", "2", "golden"} | {Path(name).name for name in ALL_FILES} <= {
        path.name for path in made
    }
    for path in made:
        mode, needed = path.stat().st_mode & 0o777, 0o755 if path.is_dir() else 0o644
        assert mode & needed == needed, f"{path} {mode:o}"
        assert path.is_dir() or mode == 0o644


def test_a_group_that_shares_the_store_can_still_write_into_it(tmp_path: Path) -> None:
    """Folders that a writer makes keep what the umask and their parent give to the group."""
    (tmp_path / "store").mkdir()
    (tmp_path / "store").chmod(0o2775)
    command = [sys.executable, "-c", WRITER, str(tmp_path / "store"), "002"]
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True, timeout=60)
    assert (tmp_path / "store").stat().st_mode & 0o7777 == 0o2775
    assert (tmp_path / "store" / "pets").stat().st_mode & 0o7777 == 0o2775
