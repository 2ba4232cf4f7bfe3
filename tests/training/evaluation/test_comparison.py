import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, f1_score

from training.evaluation import comparison, metrics


def pair(both: int, lost: int, won: int, right: int) -> tuple[NDArray[np.bool_], ...]:
    """Masks of the images that candidate and released get wrong, given the counts."""
    kinds = np.repeat([0, 1, 2, 3], [both, lost, won, right])
    return (kinds == 0) | (kinds == 1), (kinds == 0) | (kinds == 2)


def score_of(lost: int, won: int, images: int, difference: float) -> float:
    """The score statistic; its nuisance parameter is found by search, not by Tango's formula."""

    def unlikelihood(won_share: float) -> float:
        lost_share = won_share + difference
        rest = 1 - won_share - lost_share
        shares = np.array([lost_share, won_share, rest])
        counts = np.array([lost, won, images - lost - won])
        if (shares < 0).any():
            return 1e9
        return float(-(counts * np.log(np.maximum(shares, 1e-300))).sum())

    bounds = (max(0.0, -difference), (1 - difference) / 2)
    found = minimize_scalar(unlikelihood, bounds=bounds, method="bounded", options={"xatol": 1e-12})
    variance = images * (2 * found.x + difference - difference**2)
    return (lost - won - images * difference) / float(np.sqrt(variance))


@pytest.mark.parametrize(("lost", "won"), [(12, 5), (5, 12), (30, 30), (1, 0), (0, 7)])
def test_bounds_are_where_the_score_statistic_is_significant(lost: int, won: int) -> None:
    found = comparison.errors(*pair(40, lost, won, 143))
    images = 183 + lost + won
    assert found.value == pytest.approx((lost - won) / images)
    assert score_of(lost, won, images, found.high) == pytest.approx(-1.6449, abs=1e-3)
    assert score_of(lost, won, images, found.low) == pytest.approx(1.6449, abs=1e-3)


def test_the_metrics_of_both_models_are_given() -> None:
    found = comparison.errors(*pair(10, 4, 6, 80))
    assert [found.candidate, found.released] == pytest.approx([0.14, 0.16])


def test_models_that_never_differ_are_as_equal_as_the_images_can_show() -> None:
    few, many = (comparison.errors(*pair(n // 5, 0, 0, n - n // 5)).high for n in (100, 10_000))
    assert few == pytest.approx(1.6449**2 / (100 + 1.6449**2), rel=1e-3)
    assert many < 0.0003 < 0.02 < few


@pytest.mark.parametrize("kinds", [(0, 1, 0, 0), (0, 0, 1, 0), (1, 0, 0, 0), (0, 9, 0, 0)])
def test_bounds_contain_the_value_however_few_the_images(kinds: tuple[int, int, int, int]) -> None:
    found = comparison.errors(*pair(*kinds))
    assert -1 <= found.low <= found.value <= found.high <= 1


def test_the_upper_bound_of_the_error_covers_as_often_as_it_promises() -> None:
    random = np.random.default_rng(0)
    below = 0
    for _ in range(1_000):
        lost, won, _ = random.multinomial(300, [0.06, 0.04, 0.9])
        below += comparison.errors(*pair(30, lost, won, 270 - lost - won)).high < 0.02 * 300 / 300
    assert 0.02 < below / 1_000 < 0.08


def test_std_is_the_standard_deviation_of_an_image_s_difference() -> None:
    found = comparison.errors(*pair(40, 12, 5, 143))
    assert found.std == pytest.approx(np.sqrt(17 / 200 - (7 / 200) ** 2))
    assert comparison.errors(*pair(40, 0, 0, 60)).std == pytest.approx(0.1)
    assert comparison.errors(*pair(0, 0, 1, 99)).std == pytest.approx(0.1)


def test_the_metrics_have_the_names_that_verdicts_use() -> None:
    assert comparison.METRIC == {"single": "error", "multi": "1 - mAP"}


def test_the_bounds_of_error_are_no_wider_than_those_of_a_normal_difference() -> None:
    """With many images the score method agrees with the variance of the difference."""
    lost, won, images = 60, 40, 4_000
    found = comparison.errors(*pair(200, lost, won, images - 200 - lost - won))
    value = (lost - won) / images
    std = np.sqrt(((lost + won) / images - value**2) / images)
    assert found.high - found.value == pytest.approx(1.645 * std, rel=0.05)
    assert found.value - found.low == pytest.approx(1.645 * std, rel=0.05)


def scores(
    seed: int, candidate: float, released: float, images: int = 300
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Scores of two models with signals of the given strengths and mostly the same noise."""
    random = np.random.default_rng(seed)
    targets = random.random((images, 4)) < 0.3
    noise = random.normal(0, 1, targets.shape)
    ours, theirs = (
        (strength * targets + noise + random.normal(0, 0.3, targets.shape)).astype(np.float32)
        for strength in (candidate, released)
    )
    return ours, theirs, targets


def test_the_difference_of_average_precision_matches_scikit_learn() -> None:
    ours, theirs, targets = scores(0, 1, 2)
    found = comparison.average_precisions(ours, theirs, targets)
    expected = [1 - average_precision_score(targets, s, average="macro") for s in (ours, theirs)]
    assert (found.candidate, found.released) == pytest.approx(expected, abs=1e-6)
    assert 0 < found.low < found.value < found.high


def test_the_difference_of_tags_matches_scikit_learn() -> None:
    ours, theirs, targets = scores(0, 1, 2)
    found = comparison.tags(ours > 0.5, theirs > 0.5, targets)
    expected = [1 - f1_score(targets, s > 0.5, average="micro") for s in (ours, theirs)]
    assert (found.candidate, found.released) == pytest.approx(expected)
    assert 0 < found.low < found.value < found.high
    alike = comparison.tags(ours > 0.5, ours > 0.5, targets)
    assert alike.value == 0
    assert alike.high == pytest.approx(1.6449**2 / (300 + 1.6449**2), rel=1e-3)


def test_changes_of_probabilities_bound_those_of_every_bin() -> None:
    random = np.random.default_rng(0)
    theirs = random.random((400, 3)).astype(np.float32)
    ours = theirs + random.normal(0.01, 0.02, theirs.shape).astype(np.float32)
    found = comparison.square_changes(ours, theirs)
    exact = float(((ours.astype(np.float64) - theirs) ** 2).mean())
    assert (found.value, found.candidate) == pytest.approx((exact, exact))
    assert 0 <= found.low < found.value < found.high < 1.5 * exact
    for bins in (1, 5, 15):
        place = np.minimum(theirs * bins, bins - 1).astype(int)
        moved = [(place == b).mean() * (ours - theirs)[place == b].mean() ** 2 for b in range(bins)]
        assert sum(moved) < found.value


def test_few_images_do_not_prove_that_probabilities_stay() -> None:
    """The changes are all alike, so resampling them shows no difference."""
    theirs = np.full((10, 1), 0.5, np.float32)
    found = comparison.square_changes(theirs + np.float32(0.125), theirs)
    least = 0.125**2 * 1.6449**2 / (10 + 1.6449**2)
    assert (found.value, found.high) == pytest.approx((0.125**2, 0.125**2 + least), rel=1e-3)


def test_bounds_of_average_precision_cover_and_pairing_narrows_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics, "_RESAMPLES", 250)
    found = [comparison.average_precisions(*scores(seed, 1.5, 1.5)) for seed in range(60)]
    assert sum(one.high < 0 for one in found) <= 8
    assert sum(one.low > 0 for one in found) <= 8
    ours, _, targets = scores(0, 1.5, 1.5)
    alone = comparison.average_precisions(
        ours, np.roll(ours, 1, 0), np.roll(targets, 1, 0) & targets
    )
    assert found[0].high - found[0].low < (alone.high - alone.low) / 2
    for one in found[:10]:
        spread = np.std([other.value for other in found])
        assert one.high - one.low < 2 * 1.645 * spread * 1.4


def test_few_images_do_not_prove_that_models_with_the_same_scores_are_equal() -> None:
    ours, _, targets = scores(0, 9, 9, images=60)
    found = comparison.average_precisions(ours, ours, targets)
    assert found.value == 0
    assert found.high == pytest.approx(1.6449**2 / (60 + 1.6449**2), rel=1e-3)


def test_the_least_width_is_counted_from_the_difference_of_the_images_themselves() -> None:
    """One score changed: resamples differ by less than what unseen images may add."""
    ours, _, targets = scores(0, 9, 9, images=60)
    ours = np.asarray(0.5 + 0.1 * np.tanh(ours), np.float32)
    theirs = ours.copy()
    theirs[7, 0] += np.float32(0.05)
    found = comparison.separations(ours, theirs, targets)
    least = found.most * 1.6449**2 / (60 + 1.6449**2)
    assert abs(found.value) > 1e-4
    assert (found.low, found.high) == pytest.approx(
        (found.value - least, found.value + least), rel=1e-3
    )


def test_a_label_that_lost_many_images_is_reported_and_chance_is_not() -> None:
    candidate, released = np.zeros((2, 100, 3), np.bool_)
    candidate[:15, 0] = True  # 15 lost at the first label
    released[20:22, 0] = True  # and 2 won
    candidate[:4, 1] = released[4:8, 1] = True  # 4 and 4 at the second
    (found,) = comparison.regressions(candidate, released, ["cat", "dog", "eel"])
    assert (found.label, found.lost, found.won) == ("cat", 15, 2)
    single = binomtest(15, 17, 0.5, alternative="greater").pvalue
    assert found.p == pytest.approx(3 * single)


def test_the_surest_regression_comes_first() -> None:
    candidate, released = np.zeros((2, 100, 3), np.bool_)
    for column, lost in enumerate((12, 20, 15)):
        candidate[:lost, column] = True
    found = comparison.regressions(candidate, released, ["cat", "dog", "eel"])
    assert [one.label for one in found] == ["dog", "eel", "cat"]


def test_getting_better_is_not_a_regression() -> None:
    candidate, released = np.zeros((100, 1), np.bool_), np.ones((100, 1), np.bool_)
    assert comparison.regressions(candidate, released, ["cat"]) == []


def test_more_labels_need_more_evidence() -> None:
    candidate, released = np.zeros((2, 100, 50), np.bool_)
    candidate[:8, 0] = True
    names = [str(number) for number in range(50)]
    assert comparison.regressions(candidate[:, :1], released[:, :1], names[:1])
    assert not comparison.regressions(candidate, released, names)


def test_holm_s_correction_matches_a_worked_example() -> None:
    assert comparison.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert comparison.holm([0.9, 0.6]) == pytest.approx([1.0, 1.0])


def test_separations_compare_the_mean_scores_with_and_without_each_label() -> None:
    ours, theirs, targets = scores(0, 1, 2, images=80)
    ours, theirs = (np.asarray(1 / (1 + np.exp(-s)), np.float32) for s in (ours, theirs))
    found = comparison.separations(ours, theirs, targets)
    values = [
        np.mean([s[true, c].mean() - s[~true, c].mean() for c, true in enumerate(targets.T)])
        for s in (ours, theirs)
    ]
    assert (found.candidate, found.released) == pytest.approx([1 - value for value in values])
    assert found.most == pytest.approx(np.abs(ours - theirs).max())
    draws = np.random.default_rng(5).integers(0, 80, (400, 80))
    gaps = [
        np.mean(
            [
                (theirs - ours)[rows][true, c].mean() - (theirs - ours)[rows][~true, c].mean()
                for c, true in enumerate(targets[rows].T)
            ]
        )
        for rows in draws
    ]
    assert found.low == pytest.approx(np.quantile(gaps, 0.05), abs=0.01)
    assert found.high == pytest.approx(np.quantile(gaps, 0.95), abs=0.01)
    assert found.std == pytest.approx(np.std(gaps) * np.sqrt(80), rel=0.1)


def test_unseen_images_may_change_as_much_as_the_worst_of_those_seen() -> None:
    """All scores are lower by 0.01: every resample shows the same difference."""
    ours, _, targets = scores(0, 9, 9, images=60)
    ours = np.asarray(0.5 + 0.1 * np.tanh(ours), np.float32)
    found = comparison.separations(ours - np.float32(0.01), ours, targets)
    hidden = 1.6449**2 / (60 + 1.6449**2)
    assert found.value == pytest.approx(0, abs=1e-6)
    assert found.high == pytest.approx(0.01 * hidden, rel=1e-3)
    assert found.low == pytest.approx(-0.01 * hidden, rel=1e-3)
    assert found.std == pytest.approx(0.01 / np.sqrt(60), rel=1e-3)
    tiny = comparison.Difference(0.2, 0.2, -0.1, 0.1, std=1e-6, most=0.05)
    assert comparison.images_needed(tiny, 0.01) == 14  # 1.645² × 0.05 / 0.01


def test_images_needed_is_the_sample_size_that_separates_a_difference_from_the_margin() -> None:
    """As sample sizes are planned: (z of 95 % + z of 80 %)² std² / room²."""
    planned = (1.64485 + 0.84162) ** 2 * 0.3**2

    def needed(value: float) -> int:
        return comparison.images_needed(
            comparison.Difference(0.2 + value, 0.2, value - 0.1, value + 0.1, std=0.3), 0.01
        )

    for value, room in ((0, 0.01), (-0.02, 0.01), (0.005, 0.005), (0.03, 0.02), (0.0099, 0.001)):
        assert needed(value) == pytest.approx(planned / room**2, rel=1e-3), value
    never = comparison.errors(*pair(100, 0, 0, 9_900))
    assert comparison.images_needed(never, 0.01) == 271


def test_as_many_images_as_needed_give_the_planned_power() -> None:
    small = comparison.errors(*pair(20, 5, 5, 70))
    assert small.high > 0.01
    needed = comparison.images_needed(small, 0.01)
    random = np.random.default_rng(0)
    passed = []
    for _ in range(200):
        lost, won, _ = random.multinomial(needed, [0.05, 0.05, 0.9])
        passed.append(comparison.errors(*pair(0, lost, won, needed - lost - won)).high <= 0.01)
    assert 0.7 < np.mean(passed) < 0.9


def test_bounds_of_another_level_are_where_that_level_is_reached() -> None:
    found = comparison.errors(*pair(40, 12, 5, 143), level=0.975)
    assert score_of(12, 5, 200, found.high) == pytest.approx(-1.95996, abs=1e-3)
    assert score_of(12, 5, 200, found.low) == pytest.approx(1.95996, abs=1e-3)


def test_figures_are_paired_on_the_same_resampled_images() -> None:
    random = np.random.default_rng(0)
    images, labels = 3000, 4
    targets = random.integers(0, labels, images)
    theirs = random.dirichlet(np.ones(labels), images).astype(np.float32)
    ours = (0.9 * theirs + 0.1 * np.eye(labels)[targets]).astype(np.float32)
    found = comparison.figures(
        metrics.single_label(ours, targets),
        metrics.single_label(theirs, targets),
        images,
        level=0.975,
    )
    rows = np.arange(images)
    gaps = np.log(theirs[rows, targets].astype(float)) - np.log(ours[rows, targets].astype(float))
    expected = np.quantile(metrics.resamples(images) @ gaps / images, [0.025, 0.975])
    assert [found["nll"].low, found["nll"].high] == pytest.approx(expected.tolist(), rel=1e-6)
    assert found["nll"].value == pytest.approx(gaps.mean(), rel=1e-6)
    assert found["error"].value == pytest.approx(
        (ours.argmax(1) != targets).mean() - (theirs.argmax(1) != targets).mean()
    )
    wide = comparison.figures(
        metrics.single_label(ours, targets), metrics.single_label(theirs, targets), images
    )
    assert found["nll"].low < wide["nll"].low < wide["nll"].high < found["nll"].high


def test_no_number_of_images_shows_a_difference_of_nothing() -> None:
    assert comparison.images_to_show(comparison.errors(*pair(5, 3, 3, 9))) is None
