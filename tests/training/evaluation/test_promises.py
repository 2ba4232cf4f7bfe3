"""What is promised, measured on images that kept it or did not."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest

from models import coverage
from models.conformal import HeldOut, p_values
from models.outputs import Outputs
from training.evaluation import calibration, promises

Drawn = tuple[Outputs, NDArray[np.bool_]]


def drawn(images: int = 500, labels: int = 6, seed: int = 0) -> Drawn:
    """Outputs whose scores are right as often as they say, and the targets."""
    random = np.random.default_rng(seed)
    powers = np.exp(2 * random.normal(size=(images, labels)))
    scores = (powers / powers.sum(1, keepdims=True)).astype(np.float32)
    truth = (random.random((images, 1)) > scores.cumsum(1)).sum(1).clip(max=labels - 1)
    novelty = random.gamma(3, size=images).astype(np.float32)
    return Outputs(scores, novelty), np.eye(labels, dtype=np.bool_)[truth]


def test_held_out_values_ascend_and_are_those_of_the_images() -> None:
    outputs, targets = drawn(50)
    found = promises.held_out_by(outputs, targets, "single")
    assert outputs.novelty is not None and found.novelty is not None
    assert found.novelty.tolist() == sorted(outputs.novelty.tolist())
    masses = coverage.mass_before(outputs.scores, targets.argmax(1))
    assert found.mass_before is not None
    assert found.mass_before.tolist() == sorted(masses.tolist())
    assert promises.held_out_by(outputs, targets, "multi").mass_before is None


def test_each_fifth_is_judged_by_the_other_four() -> None:
    outputs, targets = drawn(60)
    found = promises.cross_fitted(outputs, targets, "single")
    assert found is not None and found.enough is not None and outputs.novelty is not None
    assert found.held_out == 48
    folds = calibration.folds(60)
    masses = coverage.mass_before(outputs.scores, targets.argmax(1))
    for row in range(60):
        rest = folds != folds[row]
        known = np.sort(outputs.novelty[rest])
        assert found.p_values[row] == p_values(outputs.novelty[row : row + 1], known)[0]
        expected = [coverage.enough(np.sort(masses[rest]), share) for share in promises.COVERAGES]
        assert found.enough[row].tolist() == expected


def test_images_like_the_held_out_ones_are_unknown_as_often_as_promised() -> None:
    outputs, targets = drawn(3000)
    found = promises.cross_fitted(outputs, targets, "single")
    assert found is not None
    for alpha in (0.01, 0.05, 0.2):
        metric = promises.unknown(found.p_values, alpha)
        assert binomtest(round(3000 * metric.value), 3000, alpha).pvalue > 1e-3
        assert 0 < metric.low < metric.value < metric.high


@pytest.mark.parametrize("judged", ["cross-fitted", "by held-out images"])
def test_sets_have_the_right_label_as_often_as_promised(judged: str) -> None:
    outputs, targets = drawn(3000)
    if judged == "cross-fitted":
        found = promises.cross_fitted(outputs, targets, "single")
    else:
        found = promises.judge(outputs, promises.held_out_by(*drawn(4000, seed=1), "single"))
    assert found is not None
    sets = promises.label_sets(outputs.scores, targets, found)
    assert [each.coverage for each in sets] == [0.8, 0.9, 0.95, 0.99]
    for each in sets:
        assert binomtest(round(3000 * each.right.value), 3000, each.coverage).pvalue > 1e-3
    sizes = [each.labels for each in sets]
    assert sizes == sorted(sizes) and 1 <= sizes[0] < sizes[-1] <= 6


def test_the_sizes_are_those_of_the_sets_that_are_answered() -> None:
    outputs, targets = drawn(200)
    held_out = promises.held_out_by(*drawn(300, seed=1), "single")
    found = promises.judge(outputs, held_out)
    assert found is not None
    for each in promises.label_sets(outputs.scores, targets, found):
        sets = [coverage.label_set(row, each.coverage, held_out) for row in outputs.scores]
        assert each.labels == pytest.approx(np.mean([len(labels) for labels in sets]))
        inside = [bool(row[labels].any()) for row, labels in zip(targets, sets, strict=True)]
        assert each.right.value == pytest.approx(np.mean(inside))


def test_strangers_are_unknown() -> None:
    outputs, targets = drawn(400)
    held_out = promises.held_out_by(outputs, targets, "single")
    strange = Outputs(outputs.scores, np.full(400, 1e3, np.float32))
    found = promises.judge(strange, held_out)
    assert found is not None and promises.unknown(found.p_values, 0.01).value == 1


def test_without_novelty_nothing_is_judged() -> None:
    outputs, targets = drawn(20)
    without = Outputs(outputs.scores)
    assert promises.cross_fitted(without, targets, "single") is None
    assert promises.judge(without, promises.held_out_by(outputs, targets, "single")) is None
    assert promises.judge(outputs, None) is None
    assert promises.judge(outputs, HeldOut(None, np.zeros(3))) is None


def test_multi_label_images_have_no_sets() -> None:
    outputs, targets = drawn(40)
    found = promises.cross_fitted(outputs, targets, "multi")
    assert found is not None and found.enough is None
    assert promises.label_sets(outputs.scores, targets, found) == []
