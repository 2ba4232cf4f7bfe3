from functools import cache

import numpy as np
import pytest

from models.captured import Why
from models.manifest import Manifest, Task
from serving.capture.selection import Margins, Pace, Selection, margin
from testkit import tiny_models


@cache
def manifest(task: Task = "single", thresholds: tuple[float, ...] | None = None) -> Manifest:
    made, _ = tiny_models.content("colours", 1, task)
    return made.model_copy(update={"thresholds": thresholds})


def float32(*values: float) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    return np.array(values, np.float32)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [((0.5, 0.25, 0.25), 0.25), ((0.25, 0.25, 0.5), 0.25), ((0, 1, 0), 1), ((0.5, 0.5, 0), 0)],
)
def test_the_margin_of_one_label_is_its_lead(scores: tuple[float, ...], expected: float) -> None:
    assert margin(float32(*scores), manifest()) == expected


def test_the_margin_of_the_only_label_is_its_score() -> None:
    assert margin(float32(0.75), manifest()) == 0.75


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ((0.0, 1.0), 1),
        ((0.25, 1.0), 0.5),  # half of the way from the threshold to 0
        ((0.0, 0.8125), 0.25),  # a quarter of the way from the threshold to 1
        ((0.5, 1.0), 0),  # at its threshold, and so a tag by nothing
        ((0.0, 0.0), 1),
    ],
)
def test_the_margin_of_tags_is_that_of_the_closest_to_its_threshold(
    scores: tuple[float, ...], expected: float
) -> None:
    assert margin(float32(*scores), manifest("multi", (0.5, 0.75))) == expected


def test_the_margin_of_tags_is_in_its_range_also_at_the_ends() -> None:
    ends = manifest("multi", (0.0, 1.0))
    for scores in ((0, 0), (0, 1), (1, 0), (1, 1), (0.5, 0.5)):
        assert 0 <= margin(float32(*scores), ends) <= 1


def test_of_alike_images_at_most_the_share_is_unsure_whatever_the_scores_are() -> None:
    random = np.random.default_rng(1)
    for power in (0.1, 1, 30):  # nearly all sure, none more than another, nearly all unsure
        margins = Margins()
        drawn = random.random(5000) ** power
        low = [margins.is_low(float(value), 0.05) for value in drawn]
        assert np.mean(low) == pytest.approx(0.05, abs=0.012)
        assert np.quantile(drawn[low], 0.9) < np.quantile(drawn, 0.1)


def test_equal_margins_make_none_unsure_and_the_first_images_are_not() -> None:
    margins = Margins()
    assert not any(margins.is_low(1.0, 0.1) for _ in range(2000))
    assert margins.is_low(0.5, 0.1)
    fresh = Margins()
    # one of ten is a tenth: the tenth image is the first that can be
    assert [fresh.is_low(1 - n / 100, 0.1) for n in range(10)] == [False] * 9 + [True]


def test_only_the_last_thousand_images_count() -> None:
    margins = Margins()
    for _ in range(1000):
        margins.is_low(0.1, 0.01)
    for _ in range(1000):
        margins.is_low(0.9, 0.01)
    assert margins.is_low(0.5, 0.01)


def test_the_reasons_are_told_apart_by_model() -> None:
    selection = Selection(share=0.1, per_h=60)
    sure, unsure = float32(1, 0, 0), float32(0.4, 0.35, 0.25)
    other = manifest().model_copy(update={"name": "other"})
    for _ in range(50):
        selection.reasons(sure, manifest(), unknown=False)
        selection.reasons(unsure, other, unknown=False)
    assert "unsure" in selection.reasons(unsure, manifest(), unknown=False)
    assert "unsure" not in selection.reasons(unsure, other, unknown=False)
    assert "unknown" in selection.reasons(sure, manifest(), unknown=True)


def test_at_random_means_the_share_of_all() -> None:
    selection = Selection(share=0.25, per_h=60)
    sure = float32(1, 0, 0)
    kept = [selection.reasons(sure, manifest(), unknown=False) for _ in range(4000)]
    assert [] in kept
    assert 800 < kept.count(["random"]) < 1200  # 1,000 and 7 standard deviations
    none = Selection(share=0, per_h=60)
    assert not any(none.reasons(sure, manifest(), unknown=False) for _ in range(100))


def test_each_reason_has_its_own_images_an_hour() -> None:
    selection = Selection(share=1, per_h=2)
    both: tuple[Why, ...] = ("unknown", "random")
    assert [selection.afforded(both) for _ in range(3)] == [both, both, ()]
    assert selection.afforded(("unknown", "unsure")) == ("unsure",)


def test_a_pace_is_spread_over_the_hour_and_saves_up_an_hour_s_worth() -> None:
    now_s = 0.0
    pace = Pace(60, lambda: now_s)
    assert sum(pace.take() for _ in range(1000)) == 60
    taken = 0
    for _ in range(3600):
        now_s += 1
        taken += pace.take()
    assert taken == pytest.approx(60, abs=1)
    now_s += 10 * 3600
    assert sum(pace.take() for _ in range(1000)) == 60
