"""From production back to training: what a model does not know is captured, corrected, learnt."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from models.bundle import read_manifest, sha256
from models.store import Store
from testkit import image_sets
from testkit.processes import train_arguments
from testkit.servers import Server, post, serve
from testkit.waiting import until
from training import run_folder
from training.__main__ import main

KNOWN, STRANGE = ("blue", "green"), "red"
REASON = "random"  # of what is captured here: with a share of 1, all of it


def drawn(label: str, count: int, seed: int) -> list[bytes]:
    random = np.random.default_rng(seed)
    return [image_sets.jpeg([label], random, (40, 36)) for _ in range(count)]


def photos(folder: Path) -> Path:
    for seed, label in enumerate(KNOWN):
        (folder / label).mkdir(parents=True)
        for number, image in enumerate(drawn(label, 24, seed)):
            (folder / label / f"{number:03}.jpg").write_bytes(image)
    return folder


def trained(out: Path, *data: Path, **options: str) -> Path:
    recipe = image_sets.recipe(data[0], valid=0.5, epochs=5)
    recipe = recipe.model_copy(update={"data": tuple(map(str, data)), **options})
    assert main(train_arguments(recipe, out)) == 0
    return out


def released(run: Path, store: Path) -> int:
    more = ["--name", "colours", "--store", str(store), "--precision", "fp32", "--margin", "0.3"]
    assert main(["release", str(run), *more]) == 0
    found = Store(store).released("colours")
    assert found is not None
    return found


def answers(server: Server, images: list[bytes]) -> list[str]:
    url = f"{server.url}/classify?top_k=1"
    return [post(url, content=image).json()["predictions"][0]["label"] for image in images]


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[tuple[Path, Server]]:
    """The store of a model that knows two colours, and a server that captures all it is sent."""
    store = tmp_path / "store"
    run = trained(tmp_path / "first", photos(tmp_path / "photos"))
    assert released(run, store) == 1
    folder = tmp_path / "server"
    folder.mkdir()
    captured = tmp_path / "captured"
    with serve(
        folder, model_store=store, reload_s=0.2, capture=captured, capture_share=1
    ) as server:
        yield store, server


def test_strangers_are_captured_corrected_learnt_and_known(
    serving: tuple[Path, Server], tmp_path: Path
) -> None:
    store, server = serving
    strangers, familiar = drawn(STRANGE, 24, 10), drawn("blue", 8, 11)
    assert STRANGE not in answers(server, [*strangers, *familiar])
    until(lambda: server.metric(f'labrador_captured_total{{why="{REASON}"}}') == 32)

    data = [str(tmp_path / "photos"), str(tmp_path / "captured")]
    audit = tmp_path / "audit"
    assert main(["inspect", *data, "--new-labels", STRANGE, "--out", str(audit)]) == 0
    assert (audit / "guesses.html").is_file()
    lines = list(csv.reader((audit / "guesses.csv").read_text().splitlines()))
    assert len(lines) == 1 + 32
    # what a person does on the page: the strangers get their label, the others are right
    hashes = {sha256(image) for image in strangers}
    corrected = [[*line[:2], STRANGE] for line in lines[1:] if Path(line[0]).stem in hashes]
    assert len(corrected) == 24
    fixes = image_sets.write_csv(tmp_path / "corrections.csv", [lines[0][:3], *corrected])

    options = {"correct": str(fixes), "new_labels": STRANGE}
    run = trained(tmp_path / "second", *map(Path, data), **options)
    before = run_folder.read(tmp_path / "first").split
    after = run_folder.read(run).split
    assert {r.sha256 for r in before.valid} < {r.sha256 for r in after.valid}
    assert {r.sha256 for r in before.train} < {r.sha256 for r in after.train}
    captured_valid = [record for record in after.valid if record.file.startswith("../captured")]
    assert {record.labels for record in captured_valid} == {("blue",), (STRANGE,)}

    assert released(run, store) == 2
    decision = read_manifest(Store(store).path("colours:2")).release
    assert decision is not None
    # judged on old and new images, without those whose label the first version lacks
    judged = [record for record in after.valid if record.labels != (STRANGE,)]
    assert decision.images == len(judged) > len(before.valid)

    until(lambda: server.metric('labrador_model_info{version="2"}') == 1)
    assert answers(server, drawn(STRANGE, 8, 12)) == [STRANGE] * 8
    assert answers(server, drawn("blue", 8, 13)) == ["blue"] * 8
