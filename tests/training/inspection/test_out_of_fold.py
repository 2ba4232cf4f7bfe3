from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from models.manifest import Task
from testkit import image_sets
from training.data import decoding
from training.data.record import Record
from training.inspection import out_of_fold
from training.network import pretrained
from training.recipe import Recipe

CPU = torch.device("cpu")


def records(labels: str, groups: list[int] | None = None) -> list[Record]:
    return [
        Record(f"{n}.jpg", tuple(label), sha256=f"{n:04}", group=groups[n] if groups else n)
        for n, label in enumerate(labels.split())
    ]


def drawn(images: int, task: Task) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    random = np.random.default_rng(0)
    features = random.normal(0, 1, (images, 6)).astype(np.float32)
    logits = features[:, :3] * 2 + random.normal(0, 1, (images, 3))
    if task == "single":
        return features, np.eye(3, dtype=bool)[logits.argmax(1)]
    return features, logits > 0


def test_a_label_s_images_are_spread_over_the_folds() -> None:
    found = out_of_fold.folds(records("a " * 10 + "b " * 15 + "c " * 5), 1)
    for start, end in ((0, 10), (10, 25), (25, 30)):
        counts = np.bincount(found[start:end], minlength=out_of_fold.FOLDS)
        assert counts.max() == counts.min()


def test_near_duplicates_are_in_one_fold() -> None:
    groups = [n // 3 for n in range(30)]
    found = out_of_fold.folds(records("a b c " * 10, groups), 1)
    assert (found.reshape(-1, 3) == found[::3, None]).all()
    assert len(set(found.tolist())) == out_of_fold.FOLDS


def test_the_folds_follow_the_content_and_the_seed_not_the_order() -> None:
    given = records("a b ab a b a b c b a a ab")
    found = dict(zip(given, out_of_fold.folds(given, 1).tolist(), strict=True))
    turned = out_of_fold.folds(given[::-1], 1).tolist()
    assert turned == [found[record] for record in given[::-1]]
    assert out_of_fold.folds(given, 2).tolist() != list(found.values())


@pytest.mark.parametrize("task", ["single", "multi"])
def test_the_head_is_scikit_learn_s_logistic_regression(task: Task) -> None:
    features, targets = drawn(200, task)
    head = out_of_fold.fit(torch.from_numpy(features), targets, task)
    strength = {"C": 1 / (200 * out_of_fold._PENALTY), "tol": 1e-8, "max_iter": 1000}
    if task == "single":
        model = LogisticRegression(**strength).fit(features, targets.argmax(1))
        expected = model.predict_proba(features)
        found = head(torch.from_numpy(features)).softmax(1).numpy()
    else:
        models = [LogisticRegression(**strength).fit(features, column) for column in targets.T]
        expected = np.stack([model.predict_proba(features)[:, 1] for model in models], 1)
        found = head(torch.from_numpy(features)).sigmoid().numpy()
    np.testing.assert_allclose(found, expected, atol=2e-3)


@pytest.mark.parametrize("task", ["single", "multi"])
def test_an_image_s_own_label_has_no_part_in_its_scores(task: Task) -> None:
    features, targets = drawn(100, task)
    folds = np.arange(100) % 5
    before = out_of_fold.scores(features, targets, task, folds, CPU)
    changed = targets.copy()
    changed[folds == 2] = np.roll(targets[folds == 2], 1, axis=1)
    after = out_of_fold.scores(features, changed, task, folds, CPU)
    np.testing.assert_array_equal(after[folds == 2], before[folds == 2])
    assert np.abs(after[folds != 2] - before[folds != 2]).max() > 1e-3
    wanted = targets.argmax(1) if task == "single" else targets
    agreed = (before.argmax(1) if task == "single" else before > 0.5) == wanted
    assert agreed.mean() > 0.7


@pytest.mark.parametrize("task", ["single", "multi"])
def test_nothing_is_known_of_a_label_that_only_one_fold_has(task: Task) -> None:
    features, targets = drawn(40, task)
    folds = np.arange(40) % 4
    targets[:, 2] = False
    targets[7] = [False, False, True]
    found = out_of_fold.scores(features, targets, task, folds, CPU)
    assert np.isnan(found[folds == 3, 2]).all()
    assert not np.isnan(found[:, :2]).any() and not np.isnan(found[folds != 3]).any()
    if task == "single":
        np.testing.assert_allclose(np.nansum(found, 1), 1, rtol=1e-5)


def test_one_fold_alone_knows_nothing() -> None:
    features, targets = drawn(10, "single")
    found = out_of_fold.scores(features, targets, "single", np.zeros(10, np.int64), CPU)
    assert np.isnan(found).all()


def test_features_are_the_network_s_pooled_ones_on_images_as_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_sets.put(tmp_path, "0.jpg", "1.jpg", "2.jpg")
    files = [tmp_path / f"{number}.jpg" for number in range(3)]
    recipe: Recipe = image_sets.recipe()
    torch.manual_seed(9)
    state = torch.get_rng_state()
    monkeypatch.setattr(out_of_fold, "_AT_ONCE", 2)
    found = out_of_fold.features(files, recipe, CPU)
    assert torch.equal(torch.get_rng_state(), state)
    network, _ = pretrained.start(recipe, 1)
    images = decoding.served(files, recipe.preprocess).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        expected = network.eval().features(images).mean((2, 3)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
