"""Everything here starts Ray."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from serving.cluster.actor import ATTEMPTS
from testkit import novel_models, tiny_models
from testkit.object_storage import BUCKET, Proxy, s3_server
from testkit.ray_cluster import cluster
from testkit.servers import ROOT

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of ray.cluster_utils
]
OTHER_BATCHES = 1e-5  # scores of two shapes of batch differ by rounding
STARTED_S = 240


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    novel_models.add(folder, "colours", "single")
    tiny_models.add(folder, "tags", "multi")
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with 80 images and one that is none."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number, colour in enumerate(np.random.default_rng(0).integers(0, 256, (80, 3))):
        red, green, blue = map(int, colour)
        (folder / f"{number:02}.jpg").write_bytes(tiny_models.picture((red, green, blue)))
    (folder / "bad.jpg").write_text("no image")
    return folder


def command(store: Path, *words: object) -> dict[str, Any]:
    """What `subprocess` needs to run `predict` on what the store has."""
    own = {"LABRADOR_MODEL_STORE": str(store), "LABRADOR_DEVICE": "cpu"}
    return {
        "args": [sys.executable, "-m", "serving", "predict", *map(str, words)],
        "env": {**os.environ, **own},
        "cwd": ROOT,
        "text": True,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
    }


@contextmanager
def started(store: Path, *words: object) -> Iterator[subprocess.Popen[str]]:
    """`predict` while a block runs, or until it ends."""
    with subprocess.Popen(**command(store, *words)) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def run(store: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(**command(store, *words), timeout=STARTED_S)


def assert_same(table: Path, folder: Path) -> None:
    """The Parquet files have the rows of the CSV, each once, in any order."""
    rows = parquet.read_table(folder).to_pylist()
    with table.open(encoding="utf-8", newline="") as lines:
        expected = {line["path"]: line for line in csv.DictReader(lines)}
    assert sorted(row["path"] for row in rows) == sorted(expected)
    for row in rows:
        assert_same_row(row, expected[row["path"]])


def assert_same_row(row: dict[str, Any], line: dict[str, str]) -> None:
    assert list(row) == list(line)
    assert (row["model"], row["error"] or "") == (line["model"], line["error"])
    found = [row[label] for label in tiny_models.LABELS]
    if row["error"]:
        assert {*found, row["predicted"], row.get("p_value"), row.get("unknown")} == {None}
        return
    scores = sorted(float(line[label]) for label in tiny_models.LABELS)
    assert sorted(found) == pytest.approx(scores, abs=OTHER_BATCHES)
    if scores[-1] - scores[-2] > OTHER_BATCHES:
        assert row["predicted"] == line["predicted"]
    if "p_value" in line:
        assert row["p_value"] == pytest.approx(float(line["p_value"]), abs=0.011)  # two ranks
        assert row["unknown"] == (row["p_value"] <= novel_models.ALPHA)


class Pipe:
    """An image that whoever reads it waits for."""

    def __init__(self, file: Path) -> None:
        os.mkfifo(file)
        self.file = file

    def held(self) -> tuple[int, int]:
        """The process that reads it, once there is one, and the open end that it waits at."""
        end = time.monotonic() + STARTED_S
        while time.monotonic() < end:
            with suppress(OSError):  # nobody has opened it
                writing = os.open(self.file, os.O_WRONLY | os.O_NONBLOCK)
                return self._reader(), writing
            time.sleep(0.05)
        raise AssertionError(f"nobody reads {self.file}")

    def _reader(self) -> int:
        while True:
            for folder in Path("/proc").glob("[0-9]*"):
                process = int(folder.name)
                if process != os.getpid() and self._is_read_by(process):
                    return process

    def _is_read_by(self, process: int) -> bool:
        found = set()
        with suppress(OSError):
            for opened in Path(f"/proc/{process}/fd").iterdir():
                with suppress(OSError):
                    found.add(opened.readlink())
        return self.file in found

    def kill_reader(self) -> None:
        process, writing = self.held()
        os.kill(process, signal.SIGKILL)
        while self._is_read_by(process):  # or it would be found, and killed, again
            time.sleep(0.05)
        os.close(writing)

    def feed(self, content: bytes, reading: subprocess.Popen[str]) -> None:
        """Give it to everyone who reads, until `reading` has ended."""
        while reading.poll() is None:
            with suppress(OSError):
                writing = os.open(self.file, os.O_WRONLY | os.O_NONBLOCK)
                os.write(writing, content)
                os.close(writing)
            time.sleep(0.2)

    def replace(self, content: bytes) -> None:
        """By a file of this content."""
        self.file.unlink()
        self.file.write_bytes(content)


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_machine_that_is_lost_costs_nothing_but_time(
    store: Path, images: Path, tmp_path: Path
) -> None:
    pipe = Pipe(tmp_path / "in the middle.jpg")
    files = sorted(images.iterdir())
    paths, out, table = [*files[:40], pipe.file, *files[40:]], tmp_path / "out", tmp_path / "a.csv"
    with cluster(2) as (address, nodes, whole):
        words = ("colours", *paths, "--out", out, "--ray", address)
        with started(store, *words) as running:
            process, writing = pipe.held()
            (lost,) = [
                node
                for node in nodes
                if parent(process) == node.all_processes["raylet"][0].process.pid
            ]
            whole.remove_node(lost, allow_graceful=False)
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)  # so that it answers nothing any more
            os.close(writing)
            pipe.feed(tiny_models.picture(), running)
            assert running.stdout and running.stderr
            printed, errors = running.stdout.read(), running.stderr.read()
    assert (running.returncode, printed) == (1, f"wrote {out}\n"), errors
    assert errors.splitlines() == [
        f"error: 1 file without a prediction: {images / 'bad.jpg'}: image_undecodable: the bytes"
        " are not a JPEG, PNG or WebP image"
    ]
    pipe.replace(tiny_models.picture())
    assert run(store, "colours", *paths, "--out", table).returncode == 1
    assert_same(table, out)


@pytest.fixture(scope="module")
def address(bucket: str) -> Iterator[str]:
    with cluster(2) as (found, _, _):
        yield found


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """Where its objects are by HTTP; this process, and those that it starts, may use it."""
    with s3_server() as port, pytest.MonkeyPatch.context() as patched:
        for name, value in Proxy(port).environment().items():
            patched.setenv(name, value)
        yield f"http://127.0.0.1:{port}/{BUCKET}"


def test_an_image_at_which_processes_die_does_not_stop_the_others(
    store: Path, images: Path, tmp_path: Path, address: str
) -> None:
    pipe, out = Pipe(tmp_path / "deadly.jpg"), tmp_path / "out"
    words = ("tags", images, pipe.file, "--out", out, "--ray", address)
    with started(store, *words) as running:
        for _ in range(ATTEMPTS):
            pipe.kill_reader()
        assert running.stderr
        errors = running.stderr.read()
    rows = {Path(row["path"]).name: row for row in parquet.read_table(out).to_pylist()}
    assert running.returncode == 1 and len(rows) == 82, errors
    assert (
        rows["deadly.jpg"]["error"]
        == "internal: 5 processes died at this image, or at one beside it"
    )
    assert sum(row["error"] is None for row in rows.values()) >= 60


def test_a_machine_that_does_not_have_the_images_ends_the_run_with_one_line(
    store: Path, images: Path, tmp_path: Path, address: str
) -> None:
    """Here it is a machine that loses them: what starts after that does not find them."""
    pipe = Pipe(tmp_path / "in the middle.jpg")
    words = ("tags", images, pipe.file, "--out", tmp_path / "out", "--ray", address)
    with started(store, *words) as running:
        process, writing = pipe.held()
        images.rename(tmp_path / "elsewhere")
        os.kill(process, signal.SIGKILL)
        os.close(writing)
        assert running.stderr
        errors = running.stderr.read()
    (line,) = errors.splitlines()
    assert line.startswith(f"error: {images} is not there on ") and running.returncode == 1


def test_parquet_with_images_and_what_an_earlier_run_has_done(
    store: Path, images: Path, tmp_path: Path, address: str
) -> None:
    """The rows are the single-machine command's for the same bytes in files."""
    contents = [file.read_bytes() for file in sorted(images.iterdir())]
    structs = [{"bytes": content, "path": None} for content in contents]
    shards = tmp_path / "shards"
    shards.mkdir()
    half = pa.table({"image": contents[:41], "id": list(range(41))})
    parquet.write_table(half, shards / "a.parquet", row_group_size=9)
    parquet.write_table(pa.table({"photo": structs[41:]}), shards / "b.parquet")
    out, table = tmp_path / "out", tmp_path / "a.csv"
    first = run(store, "tags", shards / "a.parquet", "--out", out, "--ray", address)
    assert first.returncode == 0, first.stderr
    part = (out / "part-00000.parquet").read_bytes()
    both = run(store, "tags", shards, "--out", out, "--ray", address)
    assert both.returncode == 1, both.stderr
    assert "1 file without a prediction" in both.stderr
    assert [file.name for file in sorted(out.iterdir())] == [
        "part-00000.parquet",
        "part-00001.parquet",
    ]
    assert (out / "part-00000.parquet").read_bytes() == part
    run(store, "tags", images, "--out", table)
    text = table.read_text(encoding="utf-8")
    for number, file in enumerate(sorted(images.iterdir())):
        row = shards / (f"a.parquet#{number}" if number < 41 else f"b.parquet#{number - 41}")
        text = text.replace(f"{file},", f"{row},")
    table.write_text(text, encoding="utf-8")
    assert_same(table, out)


def test_images_and_predictions_in_object_storage(
    store: Path, images: Path, tmp_path: Path, address: str, bucket: str
) -> None:
    for file in images.iterdir():
        httpx.put(f"{bucket}/in/{file.name}", content=file.read_bytes()).raise_for_status()
    words = ("--out", f"s3://{BUCKET}/out", "--ray", address)
    done = run(store, "tags", f"s3://{BUCKET}/in", *words)
    assert "1 file without a prediction: s3://models/in/bad.jpg: image_und" in done.stderr
    content = httpx.get(f"{bucket}/out/part-00000.parquet").raise_for_status().content
    folder, table = tmp_path / "out", tmp_path / "a.csv"
    folder.mkdir()
    (folder / "part-00000.parquet").write_bytes(content)
    run(store, "tags", images, "--out", table)
    text = table.read_text(encoding="utf-8").replace(str(images), f"s3://{BUCKET}/in")
    table.write_text(text, encoding="utf-8")
    assert_same(table, folder)
    gone = run(store, "tags", f"s3://{BUCKET}/gone", *words)
    (line,) = gone.stderr.splitlines()
    assert gone.returncode == 1
    assert line.startswith(f"error: no images in s3://{BUCKET}/gone: none of the objects ends in")


def test_a_network_that_fails_its_golden_images_on_a_machine_scores_nothing(
    images: Path, tmp_path: Path, address: str
) -> None:
    own = tmp_path / "store"
    tiny_models.add(
        own, "colours", "single", tiny_models.network("single", tiny_models.WEIGHTS * 2)
    )
    done = run(own, "colours", images, "--out", tmp_path / "out", "--ray", address)
    assert done.returncode == 1 and not (tmp_path / "out").exists()
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: scores differ by ")


def test_a_cluster_that_cannot_be_joined_says_why_in_one_line(
    store: Path,
    images: Path,
    tmp_path: Path,
    address: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # where Ray would find a token
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    done = run(store, "tags", images, "--out", tmp_path / "out", "--ray", address)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 1
    assert line.startswith(f"error: --ray {address}: ") and "token" in line
