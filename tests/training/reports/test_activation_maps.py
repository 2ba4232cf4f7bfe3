import numpy as np
import pytest

from training.evaluation.error_analysis import Mistake
from training.reports import activation_maps

MAPS = np.random.default_rng(0).normal(0, 1, (3, 4, 4)).astype(np.float32)


def test_evidence_for_a_confusion_is_the_difference_between_two_labels_at_each_position() -> None:
    found = activation_maps.evidence(MAPS, Mistake(0, 1.0, predicted=2, true=0))
    expected = MAPS[2] - MAPS[0]
    np.testing.assert_allclose(found, expected - expected.mean(), atol=1e-6)


def test_evidence_for_a_wrong_tag_is_its_logit_and_for_a_missing_one_the_negated_logit() -> None:
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


def test_without_evidence_the_image_stays_grey() -> None:
    image = np.full((8, 8, 3), (10, 200, 30), np.uint8)
    found = activation_maps.overlay(image, np.zeros((2, 2), np.float32))
    assert np.ptp(found, axis=2).max() == 0


@pytest.mark.parametrize("side_px", [32, 40])
def test_the_overlay_has_the_size_of_the_image(side_px: int) -> None:
    image = np.zeros((side_px, side_px, 3), np.uint8)
    assert activation_maps.overlay(image, MAPS[0]).shape == image.shape
    assert activation_maps.jpeg(image).startswith(b"\xff\xd8")
