"""Novelty against its definition, in plain NumPy and float64, and as pytorch-ood has it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.covariance import oas

from models.errors import RunError
from models.manifest import Task
from training.network import novelty
from training.network.novelty import Novelty

FEATURES = 48


def pooled(images: int, labels: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Features as after a ReLU, each label's around its own mean; and the labels."""
    random = np.random.default_rng(seed)
    means = np.random.default_rng(0).random((labels, FEATURES))
    mixing = np.random.default_rng(1).normal(size=(FEATURES, FEATURES))
    truth = np.arange(images) % labels
    noise = random.normal(size=(images, FEATURES)) @ mixing * 0.04
    lengths = random.uniform(0.5, 2, (images, 1))  # which do not count
    found = (means[truth] + noise).clip(0) * lengths
    return found.astype(np.float32), np.asarray(truth, np.intp)


def fitted(
    features: NDArray[np.float32], truth: NDArray[np.intp], task: Task, directions: int
) -> Novelty:
    targets = np.eye(int(truth.max()) + 1, dtype=np.bool_)[truth]
    found = novelty.fit(features, targets, task, directions)
    assert found is not None
    return found


def of_length_one(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    exact = rows.astype(np.float64)
    return np.asarray(exact / np.linalg.norm(exact, axis=1, keepdims=True))


def defined(
    known: NDArray[np.float32],
    truth: NDArray[np.intp],
    features: NDArray[np.float32],
    task: Task,
    directions: int,
) -> NDArray[np.float64]:
    """The squared Mahalanobis distance to the nearest mean / F, with scikit-learn's shrinkage."""
    x, y = of_length_one(known), of_length_one(features)
    if task == "multi":
        truth = np.zeros_like(truth)
    labels = np.unique(truth)
    means = [x[truth == label].mean(0) for label in labels]
    residuals = np.concatenate([x[truth == label] - x[truth == label].mean(0) for label in labels])
    free = len(x) - len(labels)
    sample = residuals.T @ residuals / free
    # scikit-learn divides by the number of rows: as many rows as degrees of freedom, same products
    rows = np.linalg.svd(residuals)[1][:free, None] * np.linalg.svd(residuals)[2][:free]
    padded = np.concatenate([rows, np.zeros((max(0, free - len(rows)), FEATURES))])
    shrinkage = oas(padded, assume_centered=True)[1]
    values, vectors = np.linalg.eigh(sample)
    values[:-directions] = values[:-directions].mean()
    values = (1 - shrinkage) * values + shrinkage * values.mean()
    inverse = vectors @ np.diag(1 / values) @ vectors.T
    each = [np.einsum("nf,fg,ng->n", y - mean, inverse, y - mean) for mean in means]
    return np.asarray(np.min(each, axis=0) / FEATURES)


@pytest.mark.parametrize("task", ["single", "multi"])
@pytest.mark.parametrize("directions", [1, 8, FEATURES - 1])
@pytest.mark.parametrize("images", [400, 32])
def test_novelty_is_the_defined_distance(task: Task, directions: int, images: int) -> None:
    """Also where there are fewer images than features."""
    known, truth = pooled(images, 4)
    new, _ = pooled(60, 4, seed=5)
    directions = min(directions, images - 4 - 1)
    found = fitted(known, truth, task, directions).of(new)
    assert found.dtype == np.float32
    expected = defined(known, truth, new, task, directions)
    np.testing.assert_allclose(found, expected, rtol=2e-4)


def test_with_all_directions_and_many_images_it_is_that_of_pytorch_ood() -> None:
    """Whose score is half the distance, by the sum of squares and without shrinkage, which takes
    2 % off with so many images.
    """
    from pytorch_ood.detector import Mahalanobis  # takes seconds

    known, truth = pooled(20_000, 4)
    new, _ = pooled(60, 4, seed=5)
    peer = Mahalanobis(None)
    peer.fit_features(torch.from_numpy(of_length_one(known)).float(), torch.from_numpy(truth))
    expected = 2 * peer.predict_features(torch.from_numpy(of_length_one(new)).float()).numpy()
    found = fitted(known, truth, "single", FEATURES - 1).of(new)
    np.testing.assert_allclose(found, expected * (len(known) - 4) / FEATURES, rtol=0.05)


@pytest.mark.parametrize("task", ["single", "multi"])
def test_it_is_about_one_for_images_like_those_of_the_training_and_more_for_others(
    task: Task,
) -> None:
    known, truth = pooled(600, 4)
    found = fitted(known, truth, task, 16)
    like, _ = pooled(200, 4, seed=7)
    other = np.random.default_rng(9).random((200, FEATURES)).astype(np.float32)
    assert 0.8 < found.of(known).mean() < 1.2
    assert 0.8 < found.of(like).mean() < 1.4
    assert found.of(other).min() > np.quantile(found.of(like), 0.95)


def test_the_length_of_the_features_does_not_count() -> None:
    known, truth = pooled(200, 4)
    found = fitted(known, truth, "single", 8)
    new, _ = pooled(20, 4, seed=3)
    np.testing.assert_allclose(found.of(10 * new), found.of(new), rtol=1e-4)


def test_a_label_without_training_images_has_no_mean() -> None:
    known, truth = pooled(200, 4)
    targets = np.eye(6, dtype=np.bool_)[truth]
    found = novelty.fit(known, targets, "single", 8)
    assert found is not None
    assert found.towards.shape == (FEATURES, 4)
    np.testing.assert_array_equal(found.of(known), fitted(known, truth, "single", 8).of(known))


@pytest.mark.parametrize(("images", "there"), [(4, False), (5, False), (6, True), (40, True)])
def test_it_needs_two_images_more_than_there_are_labels(images: int, there: bool) -> None:
    known, truth = pooled(images, 4)
    targets = np.eye(4, dtype=np.bool_)[truth]
    found = novelty.fit(known, targets, "single")
    assert (found is not None) is there
    if found is not None:
        assert np.isfinite(found.of(known)).all()


def test_features_without_length_or_variance_give_finite_numbers() -> None:
    known, truth = pooled(40, 4)
    found = fitted(known, truth, "single", 8)
    assert np.isfinite(found.of(np.zeros((2, FEATURES), np.float32))).all()
    same = np.ones((40, FEATURES), np.float32)
    equal = fitted(same, truth, "single", 8)
    assert np.isfinite(equal.of(np.concatenate([same, known]))).all()


def test_it_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    known, truth = pooled(100, 4)
    found = fitted(known, truth, "single", 8)
    file = tmp_path / "novelty.safetensors"
    file.write_bytes(found.file())
    np.testing.assert_array_equal(novelty.read(file).of(known), found.of(known))
    assert found.file() == fitted(known, truth, "single", 8).file()
    file.write_bytes(found.file()[:-5])
    with pytest.raises(RunError, match="novelty.safetensors is missing or corrupt"):
        novelty.read(file)


def test_it_is_float32_however_the_rest_is_computed() -> None:
    known, truth = pooled(100, 4)
    found = fitted(known, truth, "single", 8)
    assert {tensor.dtype for tensor in found.state_dict().values()} == {torch.float32}
