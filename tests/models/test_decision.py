import math
from fractions import Fraction

import numpy as np
import pytest

from models.decision import Prediction, Tag, above, classify, rank, tag
from models.errors import BadParameter
from testkit.bundles import manifest, multi

SINGLE = manifest()
MULTI = manifest(**multi())


def scores(*numbers: float) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    return np.array(numbers, np.float32)


def test_the_most_likely_labels_come_first() -> None:
    found = classify(scores(0.125, 0.625, 0.25), SINGLE, top_k=3)
    expected = [("dog", 0.625), ("emu", 0.25), ("cat", 0.125)]
    assert found == [Prediction(label, probability) for label, probability in expected]


def test_top_k_limits_the_number_of_labels() -> None:
    for top_k in (1, 2, 3):
        found = classify(scores(0.125, 0.625, 0.25), SINGLE, top_k)
        assert [p.label for p in found] == ["dog", "emu", "cat"][:top_k]


@pytest.mark.parametrize("top_k", [0, -1, 4])
def test_top_k_outside_the_labels_is_refused_with_the_choices(top_k: int) -> None:
    with pytest.raises(BadParameter, match=f"top_k={top_k}: use 1 to 3, .* labels of pets"):
        classify(scores(0.1, 0.6, 0.3), SINGLE, top_k)


def test_equal_scores_keep_the_order_of_the_labels() -> None:
    assert [p.label for p in classify(scores(0.25, 0.5, 0.25), SINGLE, 3)] == ["dog", "cat", "emu"]
    many = np.array([0.5, 0.25] * 50, np.float32)
    assert rank(many).tolist() == [*range(0, 100, 2), *range(1, 100, 2)]


def test_rank_agrees_with_python_on_every_row() -> None:
    table = np.random.default_rng(0).integers(0, 5, (40, 12)).astype(np.float32)
    expected = [sorted(range(12), key=lambda i: -row[i]) for row in table.tolist()]
    assert rank(table).tolist() == expected


def test_a_tag_is_a_score_at_or_above_its_own_threshold() -> None:
    assert tag(scores(0.5, 0.2, 0.8), MULTI) == [
        Tag("emu", float(np.float32(0.8)), 0.75),
        Tag("cat", 0.5, 0.5),
    ]
    below = np.nextafter(scores(0.5, 0.25, 0.75), np.float32(0))
    assert tag(below, MULTI) == []
    assert [t.label for t in tag(scores(0.5, 0.25, 0.75), MULTI)] == ["emu", "cat", "dog"]


def test_thresholds_are_compared_in_float32() -> None:
    """float32(0.41) is below 0.41: in float64 a score at its threshold would be lost."""
    assert Fraction(float(np.float32(0.41))) < Fraction(0.41)
    one = manifest(**multi(thresholds=[0.41, 0.41, 0.41]))
    found = tag(scores(0.41, 0.41, np.nextafter(np.float32(0.41), np.float32(0))), one)
    assert [(t.label, t.threshold) for t in found] == [("cat", 0.41), ("dog", 0.41)]
    assert above(scores(0.41), 0.41).tolist() == [True]


def test_a_given_threshold_replaces_every_label_s_own() -> None:
    found = tag(scores(0.5, 0.3, 0.6), MULTI, threshold=0.3)
    assert [(t.label, t.threshold) for t in found] == [("emu", 0.3), ("cat", 0.3), ("dog", 0.3)]
    assert tag(scores(0.5, 0.3, 0.9), MULTI, threshold=1.0) == []
    assert len(tag(scores(0.0, 0.0, 0.0), MULTI, threshold=0.0)) == 3


@pytest.mark.parametrize("threshold", [-0.01, 1.01, math.nan, math.inf, -math.inf])
def test_a_threshold_that_is_not_a_probability_is_refused(threshold: float) -> None:
    with pytest.raises(BadParameter, match=f"threshold={threshold}: use a number from 0 to 1"):
        tag(scores(0.5, 0.5, 0.5), MULTI, threshold)


def test_a_single_label_model_has_no_tags() -> None:
    with pytest.raises(ValueError, match="pets is single-label"):
        tag(scores(0.5, 0.5, 0.5), SINGLE)


def test_probabilities_are_plain_floats_that_json_can_hold() -> None:
    assert type(classify(scores(0.1, 0.6, 0.3), SINGLE, 1)[0].probability) is float
    assert type(tag(scores(0.1, 0.6, 0.3), MULTI)[0].probability) is float
