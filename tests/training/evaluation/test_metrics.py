import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn import metrics as peer

from training.evaluation import calibration, metrics
from training.evaluation.metrics import WeightedMetrics

RANDOM = np.random.default_rng(0)


def single(
    images: int, labels: int, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Softmax scores somewhat better than chance, and the targets."""
    random = np.random.default_rng(seed)
    targets = random.integers(0, labels, images)
    logits = random.normal(0, 1.5, (images, labels))
    logits[np.arange(images), targets] += 1.5
    return calibration.probabilities(logits.astype(np.float32), "single", 1.0), targets


def multi(
    images: int, labels: int, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
    """Sigmoid scores with many ties, targets, and tags decided at 0.5."""
    random = np.random.default_rng(seed)
    targets = random.random((images, labels)) < 0.3
    targets[:labels] |= np.eye(labels, dtype=np.bool_)[:images]
    scores = (random.random((images, labels)) * 0.7 + targets * 0.3).round(1).astype(np.float32)
    return scores, targets, scores >= 0.5


def metrics_of(task: str, images: int, seed: int = 0) -> WeightedMetrics:
    if task == "single":
        return metrics.single_label(*single(images, 6, seed))
    return metrics.multi_label(*multi(images, 6, seed))


@pytest.mark.parametrize(("images", "labels"), [(200, 8), (37, 3), (60, 5), (80, 6), (500, 30)])
def test_single_label_metrics_match_scikit_learn(images: int, labels: int) -> None:
    scores, targets = single(images, labels)
    found = metrics.values(metrics.single_label(scores, targets), images)
    predicted = scores.argmax(1)
    everything = np.arange(labels)
    top5 = peer.top_k_accuracy_score(targets, scores, k=min(5, labels - 1), labels=everything)
    assert found == pytest.approx(
        {
            "error": 1 - peer.accuracy_score(targets, predicted),
            **({"top5_error": 1 - top5} if labels > 5 else {}),
            "macro_f1": peer.f1_score(
                targets, predicted, labels=np.unique(targets), average="macro", zero_division=0
            ),
            "nll": peer.log_loss(targets, scores, labels=everything),
        },
        abs=1e-6,
    )
    assert found["error"] > 0.1


@pytest.mark.parametrize(("images", "labels"), [(200, 8), (40, 20), (12, 2)])
def test_multi_label_metrics_match_scikit_learn(images: int, labels: int) -> None:
    scores, targets, tags = multi(images, labels)
    found = metrics.values(metrics.multi_label(scores, targets, tags), images)
    assert found == pytest.approx(
        {
            "map": peer.average_precision_score(targets, scores, average="macro"),
            "micro_f1": peer.f1_score(targets, tags, average="micro"),
            "macro_f1": peer.f1_score(targets, tags, average="macro", zero_division=0),
            "accuracy_multi": 1 - peer.hamming_loss(targets, tags),
            "accuracy_all_negative": 1 - peer.hamming_loss(targets, np.zeros_like(tags)),
        },
        abs=1e-9,
    )


@pytest.mark.parametrize("decimals", [0, 1, 7])
def test_average_precision_matches_scikit_learn_with_ties_and_weights(decimals: int) -> None:
    scores = RANDOM.random(80).round(decimals).astype(np.float32)
    targets = RANDOM.random(80) < 0.3
    weights = RANDOM.integers(0, 4, (5, 80)).astype(np.float64)
    expected = [peer.average_precision_score(targets, scores, sample_weight=w) for w in weights]
    assert metrics.average_precision(scores, targets, weights) == pytest.approx(expected)


def test_label_precisions_are_those_of_each_column() -> None:
    scores, targets, _ = multi(60, 4)
    targets[:, 2] = False
    found = metrics.label_precisions(scores, targets)
    expected = peer.average_precision_score(
        targets[:, [0, 1, 3]], scores[:, [0, 1, 3]], average=None
    )
    assert found[[0, 1, 3]] == pytest.approx(expected)
    assert math.isnan(found[2])


def test_separation_is_the_gap_between_the_weighted_means_with_and_without_a_label() -> None:
    scores, targets, _ = multi(40, 4)
    targets[:, 1] = False  # left out of the mean over labels
    targets[:, 2] = True  # no score without the label: 0
    weights = RANDOM.integers(0, 4, (3, 40)).astype(np.float64)

    def mean(row: NDArray[np.float64], label: int, has: bool) -> float:
        rows = targets[:, label] == has
        return float(np.average(scores[rows, label], weights=row[rows]))

    expected = [
        (mean(w, 0, True) - mean(w, 0, False) + mean(w, 2, True))
        + (mean(w, 3, True) - mean(w, 3, False))
        for w in weights
    ]
    found = metrics.separation(scores, targets, weights)
    assert found == pytest.approx(np.array(expected) / 3)


def test_separation_is_one_for_the_truth_itself_and_nan_where_no_image_has_a_label() -> None:
    _, targets, _ = multi(40, 4)
    scores, weights = targets.astype(np.float32), np.ones((1, 40))
    assert metrics.separation(scores, targets, weights) == pytest.approx(1)
    assert metrics.separation(1 - scores, targets, weights) == pytest.approx(-1)
    assert np.isnan(metrics.separation(scores, np.zeros_like(targets), weights)).all()


@pytest.mark.parametrize("task", ["single", "multi"])
def test_a_weight_stands_for_repeated_images(task: str) -> None:
    weights = RANDOM.integers(0, 4, 50)
    rows = np.repeat(np.arange(50), weights)
    if task == "single":
        scores, targets = single(50, 6)
        repeated = metrics.single_label(scores[rows], targets[rows])
    else:
        scores, truth, tags = multi(50, 6)
        repeated = metrics.multi_label(scores[rows], truth[rows], tags[rows])
    weighted = metrics_of(task, 50)(weights[None].astype(np.float64))
    expected = metrics.values(repeated, len(rows))
    assert {name: float(value[0]) for name, value in weighted.items()} == pytest.approx(expected)


@pytest.mark.parametrize("task", ["single", "multi"])
def test_rows_of_weights_are_independent(task: str) -> None:
    weighted = metrics_of(task, 50)
    draws = RANDOM.integers(0, 3, (4, 50)).astype(np.float64)
    together = weighted(draws)
    for row, weights in enumerate(draws):
        for name, alone in weighted(weights[None]).items():
            assert together[name][row] == pytest.approx(alone[0]), name


@pytest.mark.parametrize("task", ["single", "multi"])
def test_intervals_contain_the_value_and_shrink_with_the_square_root_of_the_images(
    task: str,
) -> None:
    few, many = (metrics.with_intervals(metrics_of(task, n), n) for n in (100, 1600))
    for name, metric in many.items():
        assert metric.low <= metric.value <= metric.high, name
        ratio = (few[name].high - few[name].low) / (metric.high - metric.low)
        assert 2 < ratio < 8, name


@pytest.mark.parametrize("task", ["single", "multi"])
@pytest.mark.parametrize("images", [1, 2, 3, 7, 20, 60])
def test_intervals_contain_the_value_however_few_the_images(task: str, images: int) -> None:
    for seed in range(15):
        found = metrics.with_intervals(metrics_of(task, images, seed), images)
        for name, metric in found.items():
            assert metric.low <= metric.value <= metric.high, (name, seed)


@pytest.mark.parametrize(("wrong", "images"), [(0, 8), (2, 8), (8, 8), (1, 1), (3, 1000)])
def test_the_interval_of_a_share_matches_scipy_s(wrong: int, images: int) -> None:
    """Also where no image or every one is wrong, of which resampling makes an interval of one
    point."""
    found = metrics.of_share(wrong / images, images)
    expected = binomtest(wrong, images).proportion_ci(0.95, "wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_the_errors_have_the_interval_of_a_share() -> None:
    scores, targets = single(40, 6)
    found = metrics.with_intervals(metrics.single_label(scores, targets), 40)
    for name in ("error", "top5_error"):
        assert found[name] == metrics.of_share(found[name].value, 40)


def test_intervals_are_deterministic() -> None:
    first, second = (metrics.with_intervals(metrics_of("single", 60), 60) for _ in range(2))
    assert first == second


def test_perfect_scores_are_perfect_in_every_metric() -> None:
    targets = np.arange(40) % 4
    scores = np.eye(4, dtype=np.float32)[targets]
    found = metrics.with_intervals(metrics.single_label(scores, targets), 40)
    error = found.pop("error")
    assert (error.low, error.value) == (0, 0) and 0.05 < error.high < 0.1
    assert {name: (m.low, m.value, m.high) for name, m in found.items()} == {
        name: (value, value, value) for name, value in {"macro_f1": 1, "nll": 0}.items()
    }
    truth = scores > 0.5
    tagged = metrics.values(metrics.multi_label(scores, truth, truth), 40)
    assert tagged == pytest.approx(
        {"map": 1, "micro_f1": 1, "macro_f1": 1, "accuracy_multi": 1}
        | {"accuracy_all_negative": 0.75}
    )


def test_constant_scores_are_as_good_as_chance() -> None:
    targets = np.arange(40) % 4
    scores = np.full((40, 4), 0.25, np.float32)
    found = metrics.values(metrics.single_label(scores, targets), 40)
    assert found == pytest.approx({"error": 0.75, "macro_f1": 0.1, "nll": math.log(4)})
    truth = np.eye(4, dtype=np.bool_)[targets]
    silent = metrics.values(metrics.multi_label(scores, truth, np.zeros_like(truth)), 40)
    assert silent == pytest.approx(
        {
            "map": 0.25,
            "micro_f1": 0,
            "macro_f1": 0,
            "accuracy_multi": 0.75,
            "accuracy_all_negative": 0.75,
        }
    )


def test_a_score_of_zero_for_the_true_label_has_a_large_but_finite_loss() -> None:
    scores = np.array([[1, 0], [1, 0]], np.float32)
    nll = metrics.values(metrics.single_label(scores, np.array([0, 1])), 2)["nll"]
    assert nll == pytest.approx(-math.log(np.finfo(np.float32).tiny) / 2)


def test_labels_without_images_are_left_out_of_means() -> None:
    scores, targets, tags = multi(60, 5)
    targets[:, 3] = False
    assert tags[:, 3].any()
    kept = [0, 1, 2, 4]
    found = metrics.values(metrics.multi_label(scores, targets, tags), 60)
    fewer = metrics.values(
        metrics.multi_label(scores[:, kept], targets[:, kept], tags[:, kept]), 60
    )
    assert (found["map"], found["macro_f1"]) == pytest.approx((fewer["map"], fewer["macro_f1"]))
    certain, indices = single(60, 6)
    indices[indices == 2] = 1
    assert (certain.argmax(1) == 2).any()
    assert metrics.values(metrics.single_label(certain, indices), 60)["macro_f1"] == pytest.approx(
        peer.f1_score(indices, certain.argmax(1), labels=[0, 1, 3, 4, 5], average="macro")
    )


def test_resamples_without_any_label_do_not_spoil_the_interval() -> None:
    """One image in twenty has a label: every third resample has none."""
    targets = np.zeros((20, 2), np.bool_)
    targets[0] = True
    scores = np.linspace(1, 0, 40, dtype=np.float32).reshape(20, 2)
    found = metrics.with_intervals(metrics.multi_label(scores, targets, scores > 0.9), 20)
    assert (found["map"].low, found["map"].value, found["map"].high) == (1, 1, 1)
    assert 0 < found["macro_f1"].value < 1


def test_the_interval_of_a_difference_covers_it_as_often_as_promised() -> None:
    """Of two shares, also where few images are wrong, in 2,000 seeded draws each."""
    random = np.random.default_rng(0)
    for new, old, images, most in ((0.3, 0.1, 60, 0.97), (0.02, 0.02, 20, 1)):
        covered = 0
        for _ in range(2000):
            found = metrics.difference(
                metrics.of_share(random.binomial(images, new) / images, images),
                metrics.of_share(random.binomial(200, old) / 200, 200),
            )
            covered += found.low <= new - old <= found.high
        assert 0.93 < covered / 2000 <= most
