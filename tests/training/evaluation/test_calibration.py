import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import expit, logit, softmax
from sklearn.metrics import f1_score, log_loss

from models.decision import above
from models.manifest import Task
from training.evaluation import calibration

TASKS: tuple[Task, ...] = ("single", "multi")


def drawn(
    task: Task, images: int, temperature: float
) -> tuple[calibration.Logits, calibration.Targets]:
    """Logits, and targets drawn from their probabilities at the temperature."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (images, 4)).astype(np.float32)
    if task == "multi":
        return logits, random.random(logits.shape) < expit(logits / temperature)
    shares = softmax(logits.astype(np.float64) / temperature, axis=1)
    return logits, np.array([random.multinomial(1, share) for share in shares], np.bool_)


def best_f1(scores: NDArray[np.float32], truth: NDArray[np.bool_]) -> float:
    """By trying each set of tags that a threshold can give."""
    return max(float(f1_score(truth, scores >= cut, zero_division=0)) for cut in np.unique(scores))


def test_probabilities_match_torch() -> None:
    logits = np.random.default_rng(0).normal(0, 5, (20, 4)).astype(np.float32)
    scaled = torch.from_numpy(logits) / 1.7
    single = calibration.probabilities(logits, "single", 1.7)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, scaled.softmax(1), atol=1e-6)
    multi = calibration.probabilities(logits, "multi", 1.7)
    np.testing.assert_allclose(multi, scaled.sigmoid(), atol=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_huge_logits_stay_probabilities(task: Task) -> None:
    scores = calibration.probabilities(np.array([[1e4, -1e4]], np.float32), task, 0.05)
    assert scores.tolist() == [[1, 0]]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_uncalibrated_scores_are_those_of_temperature_one(task: Task, temperature: float) -> None:
    logits = np.random.default_rng(0).normal(0, 1, (50, 4)).astype(np.float32)
    scores = calibration.probabilities(logits, task, temperature)
    found = calibration.uncalibrated(scores, task, temperature)
    np.testing.assert_allclose(found, calibration.probabilities(logits, task, 1.0), atol=1e-4)


@pytest.mark.parametrize("task", TASKS)
def test_a_score_of_zero_or_one_is_the_same_uncalibrated(task: Task) -> None:
    scores = np.array([[0, 1, 0]], np.float32)
    assert calibration.uncalibrated(scores, task, 2.0).tolist() == [[0, 1, 0]]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_a_known_temperature_is_recovered(task: Task, temperature: float) -> None:
    logits, targets = drawn(task, 4000, temperature)
    assert calibration.fit_temperature(logits, targets, task) == pytest.approx(temperature, rel=0.1)


@pytest.mark.parametrize("task", TASKS)
def test_no_other_temperature_is_likelier(task: Task) -> None:
    logits, targets = drawn(task, 60, 2.0)

    def loss(temperature: float) -> float:
        scores = calibration.probabilities(logits, task, temperature)
        if task == "single":
            return float(log_loss(targets.argmax(1), scores, labels=range(4)))
        columns = zip(targets.T, scores.T, strict=True)
        return float(np.mean([log_loss(t, s, labels=[0, 1]) for t, s in columns]))

    found = calibration.fit_temperature(logits, targets, task)
    around = [loss(found * factor) for factor in (0.5, 0.9, 0.95, 1.05, 1.1, 2)]
    assert loss(found) < min(around)


def test_the_temperature_of_separable_logits_stays_within_bounds() -> None:
    logits = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]] * 10
    assert 0.04 < calibration.fit_temperature(logits, logits > 0, "single") < 20
    assert 1 < calibration.fit_temperature(logits, logits == 0, "multi") <= 20.001


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("decimals", [1, 8])
def test_thresholds_give_the_best_possible_f1(seed: int, decimals: int) -> None:
    random = np.random.default_rng(seed)
    targets = random.random((25, 4)) < 0.3
    targets[0] = True
    scores = (random.random((25, 4)) * 0.8 + targets * 0.2).round(decimals).astype(np.float32)
    thresholds = calibration.fit_thresholds(scores, targets)
    for label, threshold in enumerate(thresholds):
        tags = above(scores[:, label], threshold)
        assert f1_score(targets[:, label], tags) == pytest.approx(
            best_f1(scores[:, label], targets[:, label])
        )


def test_thresholds_are_optimal_for_all_scores_and_labels_of_three_images() -> None:
    values = (0.0, 0.3, 1.0)
    for scores, truth in itertools.product(
        itertools.product(values, repeat=3), itertools.product((False, True), repeat=3)
    ):
        column, targets = np.array(scores, np.float32), np.array(truth)
        if not targets.any() or (column[targets] == 0).any():
            continue  # a score of 0 is never a tag
        (threshold,) = calibration.fit_thresholds(column[:, None], targets[:, None])
        reached = f1_score(targets, above(column, threshold), zero_division=0)
        assert reached == pytest.approx(best_f1(column, targets)), (scores, truth)


@pytest.mark.parametrize(
    "scores",
    [
        [2e-8, 1e-8],
        [1 - 2**-24, 1 - 2**-23],
        [0.5, float(np.nextafter(np.float32(0.5), np.float32(0)))],
        [1e-45, 0.0],
        [1.0, 1 - 2**-24],
    ],
)
def test_a_threshold_separates_scores_that_are_close_together(scores: list[float]) -> None:
    column = np.array(scores, np.float32)[:, None]
    (threshold,) = calibration.fit_thresholds(column, np.array([[True], [False]]))
    assert above(column[:, 0], threshold).tolist() == [True, False]


def test_a_threshold_lies_halfway_between_two_scores() -> None:
    scores = np.array([[0.9], [0.75], [0.25], [0.125]], np.float32)
    assert calibration.fit_thresholds(scores, np.array([[1], [1], [0], [0]], np.bool_)) == (0.5,)
    assert calibration.fit_thresholds(scores, np.array([[1], [1], [1], [1]], np.bool_)) == (0.0625,)


def test_a_label_without_images_gets_a_threshold_of_one_half() -> None:
    scores = np.array([[0.9, 0.9], [0.1, 0.2]], np.float32)
    thresholds = calibration.fit_thresholds(scores, np.array([[True, False], [False, False]]))
    assert thresholds == (0.5, 0.5)
    scores[1, 0] = 0.8
    assert calibration.fit_thresholds(scores, np.array([[1, 0], [0, 0]], np.bool_))[1] == 0.5
    assert calibration.fit_thresholds(scores, np.array([[1, 0], [0, 0]], np.bool_))[0] > 0.8


@pytest.mark.parametrize("task", TASKS)
def test_cross_fitting_never_uses_an_image_s_own_label(task: Task) -> None:
    logits, targets = drawn(task, 23, 1.0)
    scores, tags = calibration.cross_fitted(logits, targets, task)
    elsewhere = 0
    for image in range(len(logits)):
        changed = targets.copy()
        changed[image] = np.roll(targets[image], 1) if task == "single" else ~targets[image]
        others, their_tags = calibration.cross_fitted(logits, changed, task)
        assert np.array_equal(others[image], scores[image])
        assert np.array_equal(their_tags[image], tags[image])
        elsewhere += not np.array_equal(others, scores)
    assert elsewhere == len(logits)


@pytest.mark.parametrize("task", TASKS)
def test_each_image_is_scored_by_a_fit_on_most_others(task: Task) -> None:
    """Five folds give five temperatures, each near that of all images together."""
    logits, targets = drawn(task, 400, 2.0)
    scores, tags = calibration.cross_fitted(logits, targets, task)
    near = calibration.probabilities(
        logits, task, calibration.fit_temperature(logits, targets, task)
    )
    assert 0 < np.abs(scores - near).max() < 0.05
    assert tags.any() == (task == "multi")


@pytest.mark.parametrize("task", TASKS)
def test_a_variant_gets_the_temperatures_and_thresholds_of_the_network(task: Task) -> None:
    logits, targets = drawn(task, 300, 2.0)
    variant = logits + np.float32(0.5) * drawn(task, 300, 1.0)[0][::-1]
    scores, tags = calibration.cross_fitted(logits, targets, task, variant)
    folds = np.random.default_rng(0).permutation(300) % 5
    for fold in range(5):
        rest, valid = folds != fold, folds == fold
        temperature = calibration.fit_temperature(logits[rest], targets[rest], task)
        expected = calibration.probabilities(variant[valid], task, temperature)
        assert np.array_equal(scores[valid], expected)
        if task == "multi":
            fitted = calibration.probabilities(logits[rest], task, temperature)
            thresholds = calibration.fit_thresholds(fitted, targets[rest])
            assert np.array_equal(tags[valid], above(expected, thresholds))


@pytest.mark.parametrize("task", TASKS)
def test_logits_give_their_scores_back_and_are_finite(task: Task) -> None:
    logits = drawn(task, 40, 2.0)[0]
    logits[0] = [-1000, 1000, 0, 1]
    scores = calibration.probabilities(logits, task, 1.7)
    assert {0, 1} <= set(scores.flat)
    found = calibration.logits_of(scores, task, 1.7)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(calibration.probabilities(found, task, 1.7), scores, atol=1e-6)


def test_cross_fitting_has_five_folds_of_the_same_size() -> None:
    """Sigmoid scores reveal the temperature of each image's fold."""
    logits, targets = drawn("multi", 400, 2.0)
    scores, _ = calibration.cross_fitted(logits, targets, "multi")
    found = (logits / logit(scores.astype(np.float64)))[np.arange(400), np.abs(logits).argmax(1)]
    folds = np.sort(found).reshape(5, 80)
    assert np.ptp(folds, axis=1).max() < 1e-4 < np.diff(folds.mean(1)).min()


def test_tags_come_from_thresholds_fitted_on_other_folds() -> None:
    logits, targets = drawn("multi", 300, 1.0)
    scores, tags = calibration.cross_fitted(logits, targets, "multi")
    own = above(scores, calibration.fit_thresholds(scores, targets))
    assert 0.9 < (tags == own).mean() < 1


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("images", [1, 2, 3])
def test_very_few_images_are_fitted_too(task: Task, images: int) -> None:
    logits, _ = drawn(task, images, 1.0)
    targets = np.eye(4, dtype=np.bool_)[np.arange(images)]
    scores, tags = calibration.cross_fitted(logits, targets, task)
    assert np.isfinite(scores).all()
    assert tags.shape == scores.shape == (images, 4)
    assert scores.dtype == np.float32 and tags.dtype == np.bool_
    if images == 1 and task == "multi":
        assert tags[targets].all()  # by its own threshold, as there is no other image
