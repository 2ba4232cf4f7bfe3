"""Against models whose calibration error is known: outcomes are drawn with given probabilities."""

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import norm

from models.manifest import Task
from training.evaluation import calibration_error

TASKS: tuple[Task, ...] = ("single", "multi")


@dataclass(frozen=True)
class World:
    """Images to draw from: the predicted probabilities `[M, K]`, and the true ones."""

    predicted: NDArray[np.float32]
    probability: NDArray[np.float64]

    @cached_property
    def error(self) -> float:
        """Root mean square calibration error over 15 bins."""
        bins = np.minimum((self.predicted * np.float32(15)).astype(int), 14)
        total = 0.0
        for number in range(15):
            inside = bins == number
            if inside.any():
                gap = (self.predicted[inside].astype(np.float64) - self.probability[inside]).mean()
                total += inside.mean() * gap**2
        return float(np.sqrt(total))

    def draw(self, images: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Predictions and what came true; the outcomes for one image are correlated."""
        random = np.random.default_rng(seed)
        rows = random.integers(0, len(self.predicted), images)
        shape = (images, self.predicted.shape[1])
        luck = 0.6 * random.normal(size=(images, 1)) + 0.8 * random.normal(size=shape)
        return self.predicted[rows], norm.cdf(luck) < self.probability[rows]


@cache
def world(task: Task, exaggeration: float) -> World:
    """Confident predictions of one label, or mostly low probabilities of twenty.

    exaggeration: the share of the predicted log-odds that is unfounded.
    """
    random = np.random.default_rng(0)
    if task == "single":
        predicted = (0.1 + 0.9 * random.beta(4, 1.2, (20_000, 1))).astype(np.float32)
    else:
        images, labels = random.normal(0, 0.7, (20_000, 1)), random.normal(-2.5, 1.5, 20)
        predicted = expit(images + labels + random.normal(0, 1.5, (20_000, 20))).astype(np.float32)
    odds = logit(predicted.astype(np.float64).clip(1e-6, 1 - 1e-6))
    return World(
        predicted, expit((1 - exaggeration) * odds) if exaggeration else predicted.astype(float)
    )


def missed(task: Task, exaggeration: float, images: int, draws: int) -> tuple[float, float]:
    """Shares of draws whose interval lies above the true error, and below it."""
    drawn_from = world(task, exaggeration)
    found = [calibration_error.measure(*drawn_from.draw(images, seed)) for seed in range(draws)]
    assert all(one.low <= one.value <= one.high for one in found)
    above = np.mean([one.low > drawn_from.error for one in found])
    below = np.mean([one.high < drawn_from.error for one in found])
    return float(above), float(below)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("exaggeration", [0, 0.1, 0.5])
@pytest.mark.parametrize("images", [60, 600])
def test_the_interval_contains_the_true_error_as_often_as_it_promises(
    task: Task, exaggeration: float, images: int
) -> None:
    """About 2.5 % miss on each side; of 100 draws up to 9 do by chance."""
    above, below = missed(task, exaggeration, images, 100)
    assert max(above, below) <= 0.09


@pytest.mark.long
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("exaggeration", [-0.3, 0, 0.05, 0.1, 0.25, 0.5])
@pytest.mark.parametrize("images", [12, 24, 100, 400, 3000])
def test_the_interval_contains_the_true_error_for_many_sizes_and_errors(
    task: Task, exaggeration: float, images: int
) -> None:
    """The worst case is tags that are far off: 6 % of 1,000 draws missed, not 5."""
    above, below = missed(task, exaggeration, images, 400)
    assert above + below <= 0.09


@pytest.mark.parametrize("images", [1, 2, 3, 5, 8, 13, 40])
@pytest.mark.parametrize("task", TASKS)
def test_the_interval_contains_the_value_however_few_the_images(task: Task, images: int) -> None:
    for exaggeration in (0, 0.9):
        for seed in range(40):
            found = calibration_error.measure(*world(task, exaggeration).draw(images, seed))
            assert 0 <= found.low <= found.value <= found.high <= 1


@pytest.mark.parametrize(("task", "exaggeration"), [("single", 0.5), ("multi", 0.25)])
def test_the_estimate_is_unbiased_where_the_plain_one_is_too_high(
    task: Task, exaggeration: float
) -> None:
    drawn_from = world(task, exaggeration)
    draws = [drawn_from.draw(300, seed) for seed in range(100)]
    squares = [calibration_error.measure(*draw).value ** 2 for draw in draws]
    plain = [World(predicted, true.astype(np.float64)).error ** 2 for predicted, true in draws]
    assert np.mean(squares) == pytest.approx(drawn_from.error**2, rel=0.08)
    assert np.mean(plain) > 1.1 * drawn_from.error**2


@pytest.mark.parametrize("task", TASKS)
def test_a_calibrated_model_may_have_no_error_and_has_a_small_upper_bound(task: Task) -> None:
    calibrated = world(task, 0)
    found = [calibration_error.measure(*calibrated.draw(2_000, seed)) for seed in range(40)]
    assert sum(one.low == 0 for one in found) >= 36
    assert sum(one.value == 0 for one in found) >= 12
    assert all(0 < one.high < (0.08 if task == "single" else 0.02) for one in found)


def test_the_interval_narrows_with_more_images() -> None:
    wide, narrow = (
        calibration_error.measure(*world("single", 0.5).draw(images, 0)) for images in (300, 4_800)
    )
    assert 3 < (wide.high - wide.low) / (narrow.high - narrow.low) < 5


def test_the_error_of_one_bin_is_its_gap_minus_what_chance_adds() -> None:
    """Forty predictions of 0.9, of which 24 came true: for one bin the interval is that of chi."""
    predicted = np.full((40, 1), 0.9, np.float32)
    true = np.arange(40)[:, None] < 24
    found = calibration_error.measure(predicted, true)
    variance = np.var(true, ddof=1) / 40
    assert found.value == pytest.approx(np.sqrt(0.3**2 - variance), abs=1e-6)
    std = np.sqrt(variance)
    for bound, level in ((found.low, 0.975), (found.high, 0.025)):
        near, far = (norm.cdf((sign * 0.3 - bound) / std) for sign in (1, -1))
        assert near - far == pytest.approx(level, abs=0.01)


def test_bins_are_weighted_by_their_number_of_predictions() -> None:
    predicted = np.array([[0.95]] * 900 + [[0.05]] * 100, np.float32)
    true = np.array([[True]] * 450 + [[False]] * 450 + [[True]] * 20 + [[False]] * 80)
    assert calibration_error.measure(predicted, true).value == pytest.approx(
        np.sqrt(0.9 * 0.45**2 + 0.1 * 0.15**2), rel=0.01
    )


def test_predictions_that_are_perfectly_correlated_count_as_one() -> None:
    predicted = np.linspace(0.8, 1, 80, dtype=np.float32)[:, None]
    true = np.arange(80)[:, None] % 2 == 0
    once = calibration_error.measure(predicted, true)
    often = calibration_error.measure(np.repeat(predicted, 6, 1), np.repeat(true, 6, 1))
    assert often.model_dump() == pytest.approx(once.model_dump(), rel=0.02)


def test_a_few_predictions_that_all_came_true_do_not_prove_an_error() -> None:
    """Thirty predictions of 99 %, all true: expected, although they don't vary at all."""
    found = calibration_error.measure(np.full((30, 1), 0.99, np.float32), np.ones((30, 1), bool))
    assert found.low == found.value == 0 < 0.02 < found.high


def test_predictions_that_do_not_vary_count_as_independent_whatever_the_labels() -> None:
    """Thirty images of four labels are as uncertain as 120 images of one."""
    several, single = (
        calibration_error.measure(np.full(shape, 0.99, np.float32), np.ones(shape, bool))
        for shape in ((30, 4), (120, 1))
    )
    assert several.model_dump() == pytest.approx(single.model_dump(), rel=1e-3)


def test_two_images_that_disagree_do_not_show_an_error() -> None:
    """Their mean gap is 0.49, and its standard error 0.5."""
    found = calibration_error.measure(np.full((2, 1), 0.99, np.float32), np.eye(2, 1, dtype=bool))
    assert found.low == found.value == 0


def test_certain_predictions_that_come_true_have_no_error() -> None:
    scores = np.eye(4, dtype=np.float32)[np.arange(40) % 4]
    found = calibration_error.measure(scores, scores > 0.5)
    assert (found.low, found.value, found.high) == (0, 0, 0)


def test_certain_predictions_that_never_come_true_have_an_error_of_one() -> None:
    scores = np.eye(2, dtype=np.float32)[np.arange(40) % 2]
    found = calibration_error.measure(scores, scores < 0.5)
    assert (found.low, found.value, found.high) == pytest.approx((1, 1, 1))


def test_there_are_fifteen_bins_of_equal_width() -> None:
    edges = np.linspace(0, 1, 16, dtype=np.float32)
    assert calibration_error.bins(edges[:15] + np.float32(1e-6)).tolist() == list(range(15))
    assert calibration_error.bins(edges[1:] - np.float32(1e-6)).tolist() == list(range(15))
    assert calibration_error.bins(edges[[0, 15]]).tolist() == [0, 14]


def test_it_is_deterministic_and_independent_of_order() -> None:
    predicted, true = world("multi", 0.2).draw(80, 0)
    order = np.random.default_rng(1).permutation(80)
    once = calibration_error.measure(predicted, true)
    assert calibration_error.measure(predicted, true) == once
    turned = calibration_error.measure(predicted[order], true[order])
    assert turned.model_dump() == pytest.approx(once.model_dump(), abs=1e-9)
