"""A model that was trained here, asked over HTTP about images like its own and about strangers."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import betabinom

from models import bundle
from models.manifest import Conformal
from models.store import Store
from serving import predict
from serving.settings import Settings
from testkit import image_sets, narrow_resnet
from testkit.in_process import Inside, run_inside
from testkit.servers import post
from training import run_folder
from training.commands.train import train
from training.export import forms
from training.export.export import export

ALPHA = 0.01
KNOWN = 60  # images like those it was trained on


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Has colours, a model with enough validation images for its alpha."""
    folder = tmp_path_factory.mktemp("trained")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the workers share the cores
    with narrow_resnet.in_place(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(forms, "REDUCED", ())
        recipe = image_sets.recipe(image_sets.class_folders(folder / "colours", 70), valid=0.5)
        run = run_folder.read(train(recipe, folder / "run"))
        export(run, "colours", Store(folder / "store"))
    yield Store(folder / "store")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def promised(store: Store) -> Conformal:
    found = bundle.read_manifest(store.path("colours")).conformal
    assert found is not None
    return found


@pytest.fixture(scope="module")
def server(store: Store, metrics_folder: Path) -> Iterator[Inside]:
    with run_inside(metrics_folder, model_store=store.root, device="cpu") as running:
        yield running


def answers(server: Inside, images: Sequence[bytes], query: str = "") -> list[Any]:
    files = [("image", image) for image in images]
    response = post(f"{server.url}/classify{query}", files=files, timeout=60)
    results: list[Any] = response.json()["results"]
    return results


def known() -> tuple[list[bytes], list[str]]:
    """Images that it has not seen, and their labels."""
    random = np.random.default_rng(99)
    labels = random.choice(list(image_sets.COLOURS), KNOWN).tolist()
    return [image_sets.jpeg([label], random, (40, 36)) for label in labels], labels


def strangers() -> list[bytes]:
    files = []
    for seed in range(20):
        buffer = io.BytesIO()
        image_sets.photo(seed).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


def test_strangers_are_unknown_and_images_like_its_own_are_not(
    server: Inside, promised: Conformal
) -> None:
    assert promised.alpha == ALPHA and promised.images >= 99
    strange = [answer["novelty"] for answer in answers(server, strangers())]
    assert all(novelty["unknown"] == (novelty["p_value"] <= ALPHA) for novelty in strange)
    assert sum(novelty["unknown"] for novelty in strange) >= 10  # of 20
    images, _ = known()
    for alpha in (ALPHA, 0.2):
        found = answers(server, images, f"?alpha={alpha}")
        rank = int(alpha * (promised.images + 1))
        most = betabinom.ppf(0.9999, KNOWN, rank, promised.images + 1 - rank)
        assert sum(answer["novelty"]["unknown"] for answer in found) <= most


def test_sets_have_the_right_label_about_as_often_as_promised(
    server: Inside, promised: Conformal
) -> None:
    images, labels = known()
    found = answers(server, images, "?coverage=0.9")
    right = sum(label in answer["set"] for label, answer in zip(labels, found, strict=True))
    rank = promised.images + 1 - int(0.1 * (promised.images + 1))
    assert right >= betabinom.ppf(0.0001, KNOWN, rank, promised.images + 1 - rank)


def test_files_predicted_without_a_server_have_the_same_p_values(
    server: Inside, store: Store, tmp_path: Path
) -> None:
    images = [*strangers()[:3], *known()[0][:3]]
    for number, image in enumerate(images):
        (tmp_path / f"{number}.jpg").write_bytes(image)
    out = tmp_path / "out.csv"
    predict.predict("colours", [tmp_path], out, Settings(model_store=store.root, device="cpu"))
    with out.open(encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table))
    served = [answer["novelty"] for answer in answers(server, images)]
    # one image more or less is as strange: batches of other sizes may round differently
    assert [float(row["p_value"]) for row in rows] == pytest.approx(
        [novelty["p_value"] for novelty in served], abs=0.011
    )
