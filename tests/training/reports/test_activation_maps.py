import numpy as np
import pytest

from training.evaluation.error_analysis import Mistake
from training.reports import activation_maps

MAPS = np.random.default_rng(0).normal(0, 1, (3, 4, 4)).astype(np.float32)


def test_evidence_of_a_confusion_is_the_difference_of_two_labels_at_each_place() -> None:
    found = activation_maps.evidence(MAPS, Mistake(0, 1.0, predicted=2, true=0))
    expected = MAPS[2] - MAPS[0]
    np.testing.assert_allclose(found, expected - expected.mean(), atol=1e-6)


def test_evidence_for_a_wrong_tag_is_its_own_and_against_a_missing_one_turned() -> None:
    own = MAPS[1] - MAPS[1].mean()
    wrong = activation_maps.evidence(MAPS, Mistake(0, 1.0, predicted=1, true=None))
    missing = activation_maps.evidence(MAPS, Mistake(0, 1.0, predicted=None, true=1))
    np.testing.assert_allclose(wrong, own, atol=1e-6)
    np.testing.assert_allclose(missing, -own, atol=1e-6)


def test_the_overlay_is_red_for_and_blue_against_where_the_evidence_is() -> None:
    evidence = np.zeros((4, 4), np.float32)
    evidence[:, 0], evidence[:, 3] = 1, -1
    grey = np.full((64, 64, 3), 128, np.uint8)
    found = activation_maps.overlay(grey, evidence).astype(int)
    left, middle, right = found[32, 2], found[32, 32], found[32, 61]
    assert left[0] > left[2] + 50 and right[2] > right[0] + 50
    assert np.ptp(middle) < 20


def test_no_evidence_at_all_leaves_the_picture_grey() -> None:
    picture = np.full((8, 8, 3), (10, 200, 30), np.uint8)
    found = activation_maps.overlay(picture, np.zeros((2, 2), np.float32))
    assert np.ptp(found, axis=2).max() == 0


@pytest.mark.parametrize("side_px", [32, 40])
def test_the_overlay_has_the_picture_s_size(side_px: int) -> None:
    picture = np.zeros((side_px, side_px, 3), np.uint8)
    assert activation_maps.overlay(picture, MAPS[0]).shape == picture.shape
    assert activation_maps.jpeg(picture).startswith(b"\xff\xd8")
