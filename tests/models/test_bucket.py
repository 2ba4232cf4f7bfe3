"""A store below a URL, on a real S3 server with faults in between; a folder is the reference."""

import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Barrier, Event

import pytest

from models.errors import BundleError, LabradorError
from models.manifest import Manifest
from models.storage import objects
from models.storage.cache import default_folder
from models.storage.objects import ConflictError, Objects, ObjectStoreError
from models.store import Store, default_location
from testkit.azure import azure_server
from testkit.bundles import FILES, manifest
from testkit.object_storage import BUCKET, SECRET, Fault, Proxy, s3_server

NETWORK = b"the network" * 1000


def test_an_s3_server_that_ends_is_no_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(AssertionError, match="moto ended with 1"), s3_server():
        pass


@pytest.fixture
def store(s3: Proxy) -> Store:
    return Store(s3.url)


def make(version: int) -> tuple[Manifest, dict[str, bytes]]:
    return manifest(version=version), FILES


def large(version: int) -> tuple[Manifest, dict[str, bytes]]:
    files = FILES | {"model.onnx": NETWORK}
    return manifest(files, version=version), files


def cached() -> list[str]:
    """The files of the cache, without the name of their entry."""
    found = default_folder().rglob("*")
    return sorted(p.relative_to(default_folder()).as_posix()[65:] for p in found if p.is_file())


def said(call: Callable[[], object]) -> object:
    """What a call returns, or the message of its error."""
    try:
        return call()
    except LabradorError as error:
        return f"{type(error).__name__}: {error}"


def scenario(store: Store) -> list[object]:
    """What a store answers or refuses, call by call."""
    calls: list[Callable[[], object]] = [
        *(store.names, lambda: store.versions("pets"), lambda: store.released("pets")),
        *(lambda: store.add("pets", make) and None for _ in range(3)),
        *(store.names, lambda: store.versions("pets"), lambda: store.released("pets")),
        lambda: store.read("pets").manifest,
        lambda: store.read("pets:3").files,
        lambda: store.manifest("pets:2"),
        lambda: store.size_bytes("pets:2"),
        lambda: store.release("pets", 3),
        lambda: store.resolve("pets"),
        lambda: store.address("pets:2"),
        lambda: store.release("pets", 2, instead_of=1),
        lambda: store.release("pets", 2, instead_of=3),
        *(lambda name=name: store.resolve(name) for name in ("pets:4", "cars", "Pets", "pets")),
        lambda: store.release("pets", 9),
        lambda: store.remove("pets", 2),
        lambda: store.remove("pets", 1),
        lambda: store.versions("pets"),
        lambda: store.read("pets:1"),
        lambda: store.add("pets", make) and None,
        lambda: store.versions("pets"),
        lambda: store.unfinished(None, 0),
        lambda: store.chosen("cars"),
    ]
    return [said(call) for call in calls]


def test_it_behaves_as_a_folder_does(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    expected = str(scenario(Store(folder))).replace(str(folder), str(store.where))
    assert str(scenario(store)) == expected


@pytest.mark.long
def test_azure_behaves_as_a_folder_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Azurite, Azure's own emulator; not long, but it needs a program of npm's."""
    monkeypatch.setenv("LABRADOR_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "folder"
    with azure_server() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        store = Store(f"az://{BUCKET}/prefix")
        expected = str(scenario(Store(folder))).replace(str(folder), str(store.where))
        assert str(scenario(store)) == expected
        with pytest.raises(ObjectStoreError, match=r"^az://nowhere.* 404 .*\(ContainerNotFound"):
            Store("az://nowhere/prefix").released("pets")
        written = Objects(f"az://{BUCKET}/other")
        written.replace("RELEASED", b"1", ())
        first = written.get("RELEASED")
        assert first is not None and written.get("RELEASED", first) is first
        written.replace("RELEASED", b"2", first.tag)
        for outdated in ((), first.tag):
            with pytest.raises(ConflictError):
                written.replace("RELEASED", b"3", outdated)


def test_a_version_is_pulled_once_into_the_cache_and_checked(store: Store, s3: Proxy) -> None:
    store.add("pets", make)
    shutil.rmtree(default_folder())
    found = store.read("pets")
    assert found.files == FILES
    assert found.path.is_relative_to(default_folder())
    s3.requests.clear()
    assert Store(s3.url).read("pets").files == FILES
    assert not s3.asked("GET", "model.onnx")


def test_a_look_at_what_is_still_released_is_one_request_without_a_body(
    store: Store, s3: Proxy
) -> None:
    for _ in range(2):
        store.add("pets", make)
    assert store.resolve("pets") == ("pets", 1)
    s3.requests.clear()
    for _ in range(3):
        assert store.resolve("pets") == ("pets", 1)
    assert s3.requests == [("GET", "pets/RELEASED", 304)] * 3
    Store(s3.url).release("pets", 2)
    assert store.resolve("pets") == ("pets", 2)


@pytest.mark.parametrize(
    ("file", "fault", "reason"),
    [
        ("model.onnx", "500", "cannot be read: 500 Internal Server Error"),
        ("model.onnx", "403", r"cannot be read: 403 Forbidden \(SignatureDoesNotMatch\)"),
        ("model.onnx", "cut", "cannot be read: no answer"),
        ("model.onnx", "half", "cannot be read: request or response body error"),
        ("model.onnx", "changed", "is corrupt: its sha256 is not the manifest's"),
        ("manifest.json", "500", "cannot be read: 500 Internal Server Error"),
        ("manifest.json", "changed", "is corrupt: its sha256 is not that in manifest.sha256"),
    ],
)
def test_a_fault_is_named_and_leaves_nothing_half(
    file: str, fault: Fault, reason: str, store: Store, s3: Proxy
) -> None:
    store.add("pets", large)
    shutil.rmtree(default_folder())
    s3.fault = lambda method, path: fault if path == f"pets/1/{file}" else None
    expected = BundleError if fault == "changed" else ObjectStoreError
    with pytest.raises(expected, match=f"^{s3.url}/pets/1/{file} {reason}$"):
        store.read("pets")
    assert cached() == []
    s3.fault = lambda method, path: None
    assert store.read("pets").model == NETWORK


def test_single_faults_go_unnoticed(
    store: Store, s3: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add("pets", large)
    shutil.rmtree(default_folder())
    monkeypatch.setitem(objects.RETRIES, "max_retries", 3)
    faults: list[Fault] = ["half", "cut", "500"]
    s3.fault = lambda method, path: faults.pop() if path.endswith("model.onnx") and faults else None
    assert Store(s3.url).read("pets").model == NETWORK
    assert not faults


def test_a_server_that_hangs_is_given_up(
    store: Store, s3: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add("pets", make)
    monkeypatch.setitem(objects.CLIENT, "read_timeout", timedelta(seconds=0.1))
    monkeypatch.setitem(objects.RETRIES, "max_retries", 0)
    s3.fault = lambda method, path: "hang"
    with pytest.raises(ObjectStoreError, match=r"RELEASED cannot be read: no answer \(Timeout\)$"):
        Store(s3.url).released("pets")


def test_no_message_quotes_credentials(store: Store, s3: Proxy) -> None:
    s3.fault = lambda method, path: "403"
    for call in (store.names, lambda: store.released("pets"), lambda: store.add("pets", make)):
        with pytest.raises(ObjectStoreError) as caught:
            call()
        assert SECRET not in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ftp://models", "ftp://models is not a model store; valid: a folder, s3://BUCKET/PREFIX,"),
        ("s3://", "s3:// is not a model store; valid: a folder, s3://BUCKET/PREFIX, gs://"),
    ],
)
def test_another_url_is_refused(text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABRADOR_MODEL_STORE", text)
    with pytest.raises(BundleError) as caught:
        default_location()
    assert str(caught.value).startswith(message)


def test_a_bucket_that_is_not_there_is_named(s3: Proxy) -> None:
    store = Store("s3://nowhere/models")
    for call in (store.names, lambda: store.released("pets"), lambda: store.add("pets", make)):
        with pytest.raises(ObjectStoreError, match=r"^s3://nowhere.* 404 Not Found \(NoSuchBucket"):
            call()


# Several at once.


def _both(first: Callable[[], object], second: Callable[[], object]) -> list[object]:
    with ThreadPoolExecutor(2) as pool:
        return [future.result() for future in [pool.submit(said, call) for call in (first, second)]]


def test_of_two_releases_at_once_exactly_one_wins(s3: Proxy) -> None:
    for _ in range(3):
        Store(s3.url).add("pets", make)
    together = Barrier(2, timeout=10)

    def wait(method: str, path: str) -> None:
        if (method, path) == ("PUT", "pets/RELEASED"):
            together.wait()  # both have seen version 1

    s3.fault = wait
    outcomes = _both(
        lambda: Store(s3.url).release("pets", 2), lambda: Store(s3.url).release("pets", 3)
    )
    won = Store(s3.url).released("pets")
    assert won in (2, 3)
    expected = [None, f"ReleaseError: pets:{won} was released in the meantime"]
    assert outcomes == (expected if won == 2 else expected[::-1])


def test_of_two_first_versions_at_once_both_are_written_and_one_is_released(s3: Proxy) -> None:
    together = Barrier(2, timeout=10)
    waiting = [True, True]

    def wait(method: str, path: str) -> None:
        if (method, path) == ("PUT", "pets/1/manifest.sha256") and waiting:
            waiting.pop()
            together.wait()  # both want number 1

    s3.fault = wait
    outcomes = _both(
        lambda: Store(s3.url).add("pets", make).name, lambda: Store(s3.url).add("pets", large).name
    )
    assert sorted(map(str, outcomes)) == ["1", "2"]
    store = Store(s3.url)
    assert store.versions("pets") == [1, 2]
    assert {store.read("pets:1").model, store.read("pets:2").model} == {
        FILES["model.onnx"],
        NETWORK,
    }
    assert store.released("pets") in (1, 2)


def test_a_release_whose_answer_was_lost_is_done(store: Store, s3: Proxy) -> None:
    for _ in range(2):
        store.add("pets", make)
    lost: list[Fault] = ["lost"]
    s3.fault = lambda method, path: (
        lost.pop() if (method, path) == ("PUT", "pets/RELEASED") and lost else None
    )
    store.release("pets", 2)
    assert not lost
    assert Store(s3.url).released("pets") == 2


def test_an_upload_that_was_cut_off_is_no_version_and_keeps_its_number(
    store: Store, s3: Proxy
) -> None:
    store.add("pets", make)
    s3.fault = lambda method, path: "cut" if path == "pets/2/report.html" else None
    with pytest.raises(ObjectStoreError, match=r"/pets/2/report.html cannot be written"):
        store.add("pets", make)
    s3.fault = lambda method, path: None
    assert store.versions("pets") == [1]
    with pytest.raises(BundleError, match="pets has no version 2; it has 1"):
        store.read("pets:2")
    store.add("pets", make)
    assert store.versions("pets") == [1, 3]
    assert store.unfinished("pets", 3600) == []
    assert store.unfinished(None, -3600) == ["pets/2"]
    assert store.unfinished_bytes("pets/2") > 0
    store.remove_unfinished("pets/2")
    assert store.unfinished(None, -3600) == []
    assert store.versions("pets") == [1, 3]


@pytest.mark.parametrize("when", ["before its network", "before its manifest"])
def test_a_version_that_is_removed_while_it_is_pulled_is_missing(
    when: str, store: Store, s3: Proxy
) -> None:
    for _ in range(2):
        store.add("pets", make)
    shutil.rmtree(default_folder())
    file = {"before its network": "model.onnx", "before its manifest": "manifest.json"}[when]

    def remove(method: str, path: str) -> None:
        if (method, path) == ("GET", f"pets/2/{file}"):
            s3.fault = lambda method, path: None
            Store(s3.url).remove("pets", 2)

    s3.fault = remove
    with pytest.raises(BundleError, match=rf"^{s3.url}/pets/2/{file} is missing$"):
        store.read("pets:2")
    assert cached() == []


def test_a_version_that_is_released_while_it_is_removed_stays(store: Store, s3: Proxy) -> None:
    for _ in range(2):
        store.add("pets", make)

    def release(method: str, path: str) -> None:
        if method == "POST":  # the first deletion
            s3.fault = lambda method, path: None
            Store(s3.url).release("pets", 2)

    s3.fault = release
    with pytest.raises(BundleError, match="pets:2 was released in the meantime: it stays"):
        store.remove("pets", 2)
    assert Store(s3.url).read("pets").manifest.version == 2


def test_a_version_that_is_removed_while_it_is_released_is_not_released(
    store: Store, s3: Proxy
) -> None:
    for _ in range(2):
        store.add("pets", make)

    def remove(method: str, path: str) -> None:
        if (method, path) == ("PUT", "pets/RELEASED"):
            s3.fault = lambda method, path: None
            Store(s3.url).remove("pets", 2)

    s3.fault = remove
    with pytest.raises(BundleError, match="pets/2 was removed in the meantime"):
        store.release("pets", 2)
    assert Store(s3.url).released("pets") == 1


def test_a_version_is_pulled_once_for_all_who_want_it_at_the_same_time(s3: Proxy) -> None:
    Store(s3.url).add("pets", large)
    shutil.rmtree(default_folder())
    arrived, both = list[str](), Event()

    def wait(method: str, path: str) -> None:
        if path == "pets/1/manifest.sha256":
            arrived.append(path)
            if len(arrived) == 2:  # both know what they want
                both.set()
        elif path == "pets/1/model.onnx":
            both.wait(10)

    s3.fault = wait
    found = _both(
        lambda: Store(s3.url).read("pets").model, lambda: Store(s3.url).read("pets").model
    )
    assert found == [NETWORK, NETWORK]
    assert s3.asked("GET", "model.onnx") == 1


def test_what_the_disk_has_changed_is_pulled_again(store: Store, s3: Proxy) -> None:
    path = store.add("pets", large)
    (path / "model.onnx").write_bytes(b"another")
    assert store.read("pets").model == NETWORK
    assert s3.asked("GET", "model.onnx") == 1


def test_a_pull_that_was_killed_leaves_nothing(store: Store) -> None:
    folder = store.add("pets", make).parent
    shutil.rmtree(folder / "1")
    left = folder / ".unfinished-x"
    left.mkdir()
    (left / "model.onnx").write_bytes(b"half")
    assert store.read("pets").files == FILES
    assert [path.name for path in folder.iterdir()] == ["1"]


def test_without_its_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(BundleError) as caught:
        Store("s3://models/x").names()
    assert str(caught.value) == (
        "s3://models/x needs obstore, which is not installed: pip install '.[object-store]'"
        " in Labrador's checkout"
    )
