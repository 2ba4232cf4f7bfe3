import functools
import hashlib
import shutil
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest
from filelock import FileLock
from torchvision.datasets import OxfordIIITPet, voc

from models.errors import DataError
from testkit import http_stub
from testkit.image_sets import put
from testkit.servers import free_port
from training.data import datasets, downloads


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LABRADOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address where `tmp_path` is served: torchvision does not read file:// addresses."""
    monkeypatch.setenv("no_proxy", "*")
    handler = functools.partial(Files, directory=str(tmp_path))
    with http_stub.answering(handler) as port:
        yield f"http://127.0.0.1:{port}"


class Files(http_stub.Quiet, SimpleHTTPRequestHandler):
    pass


def archive(file: Path, folder: Path, member: str) -> str:
    """A tar of one member of the folder; returns its checksum."""
    with tarfile.open(file, "w:gz" if file.suffix == ".gz" else "w") as tar:
        tar.add(folder / member, member)
    return hashlib.md5(file.read_bytes()).hexdigest()


@pytest.fixture
def pets(tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The set as the Oxford group serves it, with three images."""
    folder = put(tmp_path / "pets" / "images", "Bengal_1.jpg", "Bengal_2.jpg", "pug_3.jpg").parent
    (folder / "annotations").mkdir()
    (folder / "annotations" / "trainval.txt").write_text("Bengal_1 1 1 1\npug_3 2 2 1\n")
    (folder / "annotations" / "test.txt").write_text("Bengal_2 1 1 1\n")
    files = {name: tmp_path / f"{name}.tar.gz" for name in ("images", "annotations")}
    resources = [
        (f"{address}/{file.name}", archive(file, folder, name)) for name, file in files.items()
    ]
    monkeypatch.setattr(OxfordIIITPet, "_RESOURCES", resources)


@pytest.fixture
def voc2007(tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two archives of the set, with one image each."""
    for side, key, name in (("trainval", "2007", "1"), ("test", "2007-test", "2")):
        root = tmp_path / side / "VOCdevkit" / "VOC2007"
        put(root / "JPEGImages", f"{name}.jpg")
        (root / "Annotations").mkdir()
        (root / "Annotations" / f"{name}.xml").write_text(
            "<annotation><object><name>dog</name></object></annotation>"
        )
        (root / "ImageSets" / "Main").mkdir(parents=True)
        (root / "ImageSets" / "Main" / f"{side}.txt").write_text(f"{name}\n")
        md5 = archive(tmp_path / f"{side}.tar", tmp_path / side, "VOCdevkit")
        monkeypatch.setitem(voc.DATASET_YEAR_DICT[key], "url", f"{address}/{side}.tar")
        monkeypatch.setitem(voc.DATASET_YEAR_DICT[key], "md5", md5)


def test_the_pets_are_downloaded_once_and_read(
    pets: None, cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = datasets.read("oxford-pets")
    assert found.root == cache / "oxford-pets" / "oxford-iiit-pet" / "images"
    sides = [(r.file, r.labels, r.side) for r in found.records]
    assert sides == [
        ("Bengal_1.jpg", ("Bengal",), "train"),
        ("Bengal_2.jpg", ("Bengal",), "valid"),
        ("pug_3.jpg", ("pug",), "train"),
    ]
    assert "downloading oxford-pets to " in capsys.readouterr().out
    monkeypatch.setattr(OxfordIIITPet, "_RESOURCES", ())
    assert datasets.read("oxford-pets") == found
    assert capsys.readouterr().out == ""


def test_voc_is_downloaded_with_its_test_images(voc2007: None, cache: Path) -> None:
    found = datasets.read("voc2007")
    assert found.root == cache / "voc2007" / "VOCdevkit" / "VOC2007" / "JPEGImages"
    assert [(r.file, r.labels, r.side) for r in found.records] == [
        ("1.jpg", ("dog",), "train"),
        ("2.jpg", ("dog",), "valid"),
    ]


def test_a_path_of_that_name_is_not_downloaded(tmp_path: Path, cache: Path) -> None:
    put(tmp_path / "voc2007", "cat/a.jpg", "dog/b.jpg")
    assert datasets.read("voc2007").labels == ("cat", "dog")
    assert not cache.exists()


def test_an_interrupted_download_starts_again(pets: None, cache: Path) -> None:
    torn = put(cache / "oxford-pets.partial" / "oxford-iiit-pet" / "images", "Bengal_1.jpg")
    (torn.parent / "annotations").mkdir()
    assert len(datasets.read("oxford-pets").records) == 3


def test_of_several_processes_one_downloads(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here another one does, and has finished when this one's turn comes."""
    begun: list[Path] = []
    monkeypatch.setitem(downloads._SETS, "oxford-pets", (begun.append, "inside"))
    cache.mkdir()
    with ThreadPoolExecutor(1) as pool:
        with FileLock(cache / "oxford-pets.lock"):
            waiting = pool.submit(downloads.folder, "oxford-pets")
            assert not wait([waiting], timeout=0.1).done
            (cache / "oxford-pets").mkdir()
        assert waiting.result() == cache / "oxford-pets" / "inside"
    assert begun == []


@pytest.mark.parametrize("fault", ["unreachable", "changed"])
def test_a_failed_download_is_one_clear_line(
    pets: None, tmp_path: Path, cache: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault == "unreachable":
        nowhere = f"http://127.0.0.1:{free_port()}/images.tar.gz"
        monkeypatch.setattr(OxfordIIITPet, "_RESOURCES", [(nowhere, "")])
    else:
        shutil.copy(tmp_path / "images.tar.gz", tmp_path / "annotations.tar.gz")
    with pytest.raises(DataError) as caught:
        datasets.read("oxford-pets")
    message = str(caught.value)
    assert message.startswith(f"oxford-pets cannot be downloaded to {cache}: ")
    assert message.endswith("download it by other means and give its folder as DATA")
    assert "\n" not in message
    assert not (cache / "oxford-pets").exists()


def test_the_cache_is_in_the_home_folder_by_default(
    pets: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LABRADOR_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    expected = tmp_path / "home" / ".cache" / "labrador" / "oxford-pets" / "oxford-iiit-pet"
    assert downloads.folder("oxford-pets") == expected
