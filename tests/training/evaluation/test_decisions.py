import numpy as np
import pytest

from training.evaluation.decisions import baseline, calibration_pairs, decide


def test_a_decision_is_the_likeliest_label_or_those_at_their_thresholds() -> None:
    scores = np.array([[0.2, 0.5, 0.3], [0.4, 0.2, 0.4]], np.float32)
    likeliest = decide(scores, None)
    assert likeliest.dtype == np.bool_  # what `~` and `&` need
    assert likeliest.astype(int).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert decide(scores, (0.2, 0.6, 0.35)).astype(int).tolist() == [[1, 0, 0], [1, 0, 1]]


def test_the_baseline_counts_what_is_predicted_and_how_confidently() -> None:
    scores = np.array([[0.04, 0.02], [0.06, 0], [1, 0.9], [0.3, 0.97], [0, 0]], np.float32)
    predicted = decide(scores, (0.3, 0.95))
    found = baseline(scores, predicted)
    assert found.label_share == (0.4, 0.2)
    assert found.confidence_edges == pytest.approx(np.linspace(0.05, 1, 20))
    assert dict(enumerate(found.confidence_counts)) == {n: 0 for n in range(20)} | {
        0: 2,
        1: 1,
        19: 2,
    }


def test_the_baseline_counts_every_image_whatever_bins_are_empty() -> None:
    """A softmax in float32 may exceed 1 by its rounding."""
    for scores, place in (([0.28, 0.2], 5), ([np.nextafter(np.float32(1), 2), 0.0], 19)):
        row = np.array([scores], np.float32)
        counts = baseline(row, decide(row, None)).confidence_counts
        assert counts == tuple(int(number == place) for number in range(20))


def test_calibration_pairs_are_of_the_likeliest_label_or_of_every_label() -> None:
    scores = np.array([[0.2, 0.5, 0.3], [0.4, 0.2, 0.4]], np.float32)
    targets = np.array([[0, 1, 0], [0, 0, 1]], np.bool_)
    predicted, true = calibration_pairs("single", scores, targets)
    assert (predicted.ravel().tolist(), true.ravel().tolist()) == (
        [0.5, np.float32(0.4)],
        [True, False],
    )
    predicted, true = calibration_pairs("multi", scores, targets)
    assert predicted is scores and true is targets
