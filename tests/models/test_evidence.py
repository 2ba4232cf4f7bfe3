import numpy as np
import pytest

from models.evidence import evidence, rival

MAPS = np.random.default_rng(0).normal(0, 1, (3, 4, 4)).astype(np.float32)


@pytest.mark.parametrize(("label", "expected"), [(0, 2), (1, 2), (2, 0)])
def test_a_label_competes_with_the_likeliest_other_one(label: int, expected: int) -> None:
    assert rival(np.array([0.3, 0.1, 0.6], np.float32), label) == expected


def test_of_equally_likely_labels_neither_competes_with_itself() -> None:
    scores = np.array([0.5, 0.5], np.float32)
    assert [rival(scores, label) for label in (0, 1)] == [1, 0]


def test_evidence_against_another_label_is_the_difference_of_their_logits() -> None:
    expected = MAPS[2] - MAPS[0]
    np.testing.assert_allclose(evidence(MAPS, 2, 0), expected - expected.mean(), atol=1e-6)


def test_evidence_for_or_against_one_label_is_its_own_logit() -> None:
    own = MAPS[1] - MAPS[1].mean()
    np.testing.assert_allclose(evidence(MAPS, 1, None), own, atol=1e-6)
    np.testing.assert_allclose(evidence(MAPS, None, 1), -own, atol=1e-6)


def test_evidence_is_as_strong_for_as_against() -> None:
    assert evidence(MAPS + 100, 1, None).mean() == pytest.approx(0, abs=1e-4)
