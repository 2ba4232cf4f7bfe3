"""What the service keeps of what it is sent, and that nobody waits for it."""

import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models import captured
from models.bundle import sha256, write_atomically
from models.captured import Captured
from serving.capture import captured_folder
from serving.capture.capture import Capture
from serving.observability.metrics import Metrics
from serving.settings import Settings
from testkit import novel_models, odd_images, small_disk, tiny_models
from testkit.in_process import Hold, Inside
from testkit.servers import post, serve
from testkit.waiting import until

Start = Callable[..., Inside]
RED = tiny_models.picture()
KEPT = 'labrador_captured_total{why="random"}'


def dropped(reason: str) -> str:
    return f'labrador_capture_dropped_total{{reason="{reason}"}}'


@pytest.fixture
def everything(inside: Start, tmp_path: Path) -> Callable[..., Inside]:
    """A server that keeps every image at random, in `tmp_path`."""
    return lambda **changes: inside(capture=tmp_path, capture_share=1, **changes)


def counted_up(server: Inside, series: str, before: float, by: int = 1) -> None:
    until(lambda: server.metric(series) == before + by)


def answers(root: Path, model: str) -> list[Captured]:
    return [captured.read(file) for file in sorted((root / model).glob("*.json"))]


def test_by_default_nothing_is_kept(inside: Start, tmp_path: Path) -> None:
    assert Settings().capture is None
    assert Settings().capture_share < 1
    server = inside()
    before = server.metric(KEPT)
    threads = {thread.name for thread in threading.enumerate()}
    post(f"{server.url}/classify", content=RED).raise_for_status()
    assert "capture" not in threads
    assert server.metric(KEPT) == before


def test_an_image_is_kept_with_its_answer_and_nothing_about_the_client(
    everything: Start, tmp_path: Path
) -> None:
    server = everything()
    before = server.metric(KEPT)
    part = {"image": ("ada-lovelace.jpg", RED, "image/jpeg")}
    headers = {"User-Agent": "ada-lovelace", "X-Forwarded-For": "203.0.113.7"}
    answer = post(f"{server.url}/classify?top_k=1", files=part, headers=headers).json()
    counted_up(server, KEPT, before)
    (found,) = answers(tmp_path, "colours")
    (best,) = answer["predictions"]
    assert found.sha256 == sha256(RED)
    assert (tmp_path / "colours" / found.file).read_bytes() == RED
    assert (found.labels, found.version, found.task) == ((best["label"],), 1, "single")
    assert found.scores[best["label"]] == best["probability"]
    assert list(found.scores) == sorted(found.scores, key=lambda label: -found.scores[label])
    assert found.why[-1] == "random"
    for file in tmp_path.rglob("*"):
        assert "ada" not in file.name
        assert not file.is_file() or b"ada" not in file.read_bytes()
        assert not file.is_file() or b"203.0.113.7" not in file.read_bytes()


def test_an_image_is_kept_as_unknown_by_the_model_s_own_alpha(
    inside: Start, tmp_path: Path
) -> None:
    novel_models.add(tmp_path / "store", "colours", "single")
    folder = tmp_path / "captured"
    folder.mkdir()
    server = inside(model_store=tmp_path / "store", capture=folder, capture_share=0)
    series = 'labrador_captured_total{model="colours",why="unknown"}'
    before = server.metric(series)
    grey = odd_images.encoded(np.full((48, 48, 3), (160, 120, 120), np.uint8), "PNG")
    asked = post(f"{server.url}/classify?alpha=0.9", content=grey).json()
    assert asked["novelty"]["unknown"]  # at this alpha only
    assert post(f"{server.url}/classify", content=RED).json()["novelty"]["unknown"]
    counted_up(server, series, before)
    assert [(one.sha256, one.why) for one in answers(folder, "colours")] == [
        (sha256(RED), ("unknown",))
    ]


def test_tags_are_kept_by_the_models_own_thresholds(everything: Start, tmp_path: Path) -> None:
    server = everything()
    before = server.metric(KEPT)
    own = post(f"{server.url}/tag", content=RED).json()["tags"]
    post(f"{server.url}/tag?threshold=0", content=tiny_models.picture((20, 200, 20)))
    counted_up(server, KEPT, before, 2)
    found = {one.sha256: one for one in answers(tmp_path, "tags")}
    assert found[sha256(RED)].labels == tuple(tag["label"] for tag in own)
    assert len(own) < 3
    assert all(len(one.labels) < 3 for one in found.values())
    assert {one.task for one in found.values()} == {"multi"}


def test_each_image_of_a_request_is_kept_but_not_one_that_has_an_error(
    everything: Start, tmp_path: Path
) -> None:
    server = everything()
    before = server.metric(KEPT)
    images = [RED, b"no image", tiny_models.picture((20, 20, 200))]
    post(f"{server.url}/classify", files=[("image", image) for image in images])
    counted_up(server, KEPT, before, 2)
    kept = {one.sha256 for one in answers(tmp_path, "colours")}
    assert kept == {sha256(images[0]), sha256(images[2])}


def test_where_it_was_taken_is_not_kept(everything: Start, tmp_path: Path) -> None:
    server = everything()
    before = server.metric(KEPT)
    block = odd_images.exif(6)
    block[0x013B] = "Ada"
    data = odd_images.encoded(Image.new("RGB", (40, 30), "red"), "JPEG", exif=block)
    assert b"Ada" in data
    post(f"{server.url}/classify", content=data).raise_for_status()
    counted_up(server, KEPT, before)
    (file,) = (tmp_path / "colours").glob("*.jpg")
    assert file.stem == sha256(data)
    assert b"Ada" not in file.read_bytes()
    assert Image.open(io.BytesIO(file.read_bytes())).getexif()[0x0112] == 6


def test_the_same_image_again_is_counted_as_a_duplicate(everything: Start, tmp_path: Path) -> None:
    server = everything()
    before = server.metric(dropped("duplicate"))
    for _ in range(3):
        post(f"{server.url}/classify", content=RED).raise_for_status()
    counted_up(server, dropped("duplicate"), before, 2)
    assert len(answers(tmp_path, "colours")) == 1


def test_the_hours_images_are_a_limit(everything: Start, tmp_path: Path) -> None:
    server = everything(capture_images_per_h=2)
    before, kept = server.metric(dropped("budget")), server.metric(KEPT)
    for number in range(5):
        post(f"{server.url}/classify", content=tiny_models.picture((200, 30, number)))
    counted_up(server, KEPT, kept, 2)
    assert server.metric(dropped("budget")) == before + 3
    assert server.metric("labrador_captured_bytes") >= sum(
        file.stat().st_size for file in (tmp_path / "colours").glob("*.j*")
    )


def test_while_the_folder_hangs_every_request_is_answered_and_memory_is_bounded(
    everything: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = Hold()

    def hang(path: Path, data: bytes, mode: int) -> None:
        hold()
        write_atomically(path, data, mode)

    monkeypatch.setattr(captured_folder, "write_atomically", hang)
    monkeypatch.setattr("serving.capture.capture._WAITING_BYTES", len(RED) * 5 // 2)
    server = everything(max_body_mb=1e-3)
    before, kept = server.metric(dropped("slow")), server.metric(KEPT)
    for number in range(6):
        answer = post(f"{server.url}/classify", content=tiny_models.picture((200, 30, number)))
        assert answer.status_code == 200
    hold.wait()
    waiting = 6 - server.metric(dropped("slow")) + before
    assert 1 <= waiting <= 2
    hold.go.set()
    counted_up(server, KEPT, kept, int(waiting))
    post(f"{server.url}/classify", content=RED)
    counted_up(server, KEPT, kept, int(waiting) + 1)  # there is room again


def test_a_worker_ends_while_its_folder_hangs(
    tmp_path: Path, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = Hold()
    monkeypatch.setattr(captured_folder, "write_atomically", lambda *_: hold())
    capture = Capture(Settings(capture=tmp_path, capture_share=1), metrics)
    manifest, _ = tiny_models.content("colours", 1, "single")
    capture.offer(RED, np.array([1, 0, 0], np.float32), manifest)
    hold.wait()
    capture.close()
    hanging = [thread for thread in threading.enumerate() if thread.name == "capture"]
    assert hanging
    hold.go.set()
    for thread in hanging:
        thread.join()  # before it counts in the next test


def test_a_folder_that_goes_away_is_counted_told_once_and_used_again_when_it_is_back(
    inside: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "mount"
    folder.mkdir()
    server = inside(capture=folder, capture_share=1)
    before, kept = server.metric(dropped("unwritable")), server.metric(KEPT)
    post(f"{server.url}/classify", content=RED)
    counted_up(server, KEPT, kept)
    folder.rename(tmp_path / "away")
    for number in range(3):
        answer = post(f"{server.url}/classify", content=tiny_models.picture((200, 30, number)))
        assert answer.status_code == 200
    counted_up(server, dropped("unwritable"), before, 3)
    (tmp_path / "away").rename(folder)
    post(f"{server.url}/classify", content=tiny_models.picture((200, 30, 9)))
    counted_up(server, KEPT, kept, 2)
    told = [record.message for record in caplog.records if record.name == "serving.capture.capture"]
    assert len([text for text in told if "cannot be kept" in text]) == 1


def test_an_image_whose_metadata_cannot_be_told_apart_is_not_kept(
    everything: Start, tmp_path: Path
) -> None:
    server = everything()
    before = server.metric(dropped("metadata"))
    odd = RED[:20] + b"between segments" + RED[20:]
    assert post(f"{server.url}/classify", content=odd).status_code == 200
    counted_up(server, dropped("metadata"), before)
    assert not list(tmp_path.rglob("*.jpg"))


def test_what_is_unknown_is_a_reason(tmp_path: Path, metrics: Metrics) -> None:
    capture = Capture(Settings(capture=tmp_path, capture_share=0), metrics)
    manifest, _ = tiny_models.content("colours", 1, "single")
    scores = np.array([1, 0, 0], np.float32)
    capture.offer(tiny_models.picture((1, 2, 3)), scores, manifest)
    capture.offer(RED, scores, manifest, unknown=True)
    capture.close()
    (found,) = answers(tmp_path, "colours")
    assert (found.why, found.sha256) == (("unknown",), sha256(RED))


def test_two_workers_share_a_folder_and_a_full_disk_is_counted_and_delays_nobody(
    tmp_path: Path, store: Path
) -> None:
    folder = tmp_path / "captured"
    folder.mkdir()
    inside = small_disk.in_place_of(folder, "160k")
    options: dict[str, Any] = {"capture": folder, "capture_share": 1, "workers": 2}
    random = np.random.default_rng(1)
    images = []
    for _ in range(12):
        pixels = random.integers(0, 256, (96, 96, 3), dtype=np.uint8)
        images.append(odd_images.encoded(pixels, "PNG"))  # 28 kB each
    with serve(tmp_path, inside=inside, model_store=store, **options) as server:
        until(lambda: server.log().count("runs in fp32") == 4)  # both models in both workers
        for image in images:
            assert post(f"{server.url}/classify", content=image).status_code == 200
        until(lambda: server.metric(KEPT) + server.metric(dropped("full")) == 12)
        seen = Path(f"/proc/{server.process.pid}/root/{folder}")
        pictures = sorted((seen / "colours").glob("*.png"))
        assert len(pictures) == server.metric(KEPT) >= 2
        assert [sha256(file.read_bytes()) for file in pictures] == [f.stem for f in pictures]
        assert not list((seen / "colours").glob(".unfinished-*"))
