"""Sets of labels against the paper's definition, in plain Python and as MAPIE has it, and their
coverage in simulation.
"""

import math
import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from models import coverage
from models.conformal import HeldOut
from models.coverage import enough, label_set, mass_before
from models.errors import BadParameter
from testkit import bundles, novel_models
from testkit.given_scores import GivenScores

Scores = NDArray[np.float32]


def drawn(
    random: np.random.Generator, images: int, labels: int = 12
) -> tuple[Scores, NDArray[np.intp]]:
    """Scores of a network that is often wrong and too sure, and the right labels."""
    logits = random.normal(size=(images, labels)) * 1.5
    powers = np.exp(logits)
    shares = powers / powers.sum(1, keepdims=True)
    truth = (random.random((images, 1)) > shares.cumsum(1)).sum(1)
    sharper = shares**1.3
    return (sharper / sharper.sum(1, keepdims=True)).astype(np.float32), np.asarray(truth, np.intp)


def taken(scores: Scores, needed: float) -> list[int]:
    """Labels from the likeliest on, until those taken have more than the mass that is needed."""
    found: list[int] = []
    mass = 0.0
    for label in sorted(range(len(scores)), key=lambda label: -scores[label]):
        if mass > needed:
            break
        found.append(label)
        mass += float(scores[label])
    return found


def test_the_mass_before_a_label_is_that_of_the_likelier_ones() -> None:
    scores = np.array([[0.2, 0.5, 0.3], [0.25, 0.25, 0.5]], np.float32)
    assert mass_before(scores, np.array([1, 2])).tolist() == [0, 0]
    assert mass_before(scores, np.array([2, 0])).tolist() == [0.5, 0.5]
    expected = [0.5 + float(np.float32(0.3)), 0.75]
    assert mass_before(scores, np.array([0, 1])).tolist() == expected


@pytest.mark.parametrize(("share", "place"), [(0.01, 1), (0.5, 5), (0.51, 6), (0.9, 9), (0.899, 9)])
def test_enough_is_the_quantile_of_split_conformal_prediction(share: float, place: int) -> None:
    masses = np.arange(1, 10) / 10
    assert enough(masses, share) == masses[place - 1]


def test_too_few_images_for_a_coverage_take_all_labels() -> None:
    masses = np.zeros(9)
    assert enough(masses, 0.9) == 0
    assert enough(masses, 0.91) == math.inf
    scores = np.array([0.1, 0.7, 0.2], np.float32)
    assert label_set(scores, 0.91, HeldOut(None, masses)) == [1, 2, 0]


def test_a_set_is_the_one_of_the_definition() -> None:
    random = np.random.default_rng(0)
    scores, truth = drawn(random, 400)
    held_out = HeldOut(None, np.sort(mass_before(scores[:200], truth[:200])))
    assert held_out.mass_before is not None
    for share in (0.3, 0.8, 0.95):
        needed = enough(held_out.mass_before, share)
        for row in scores[200:]:
            assert label_set(row, share, held_out) == taken(row, needed)


class AlwaysOne(np.random.RandomState):
    """The paper's random draw, which takes none of a right label's own probability into its mass
    where it is 1.
    """

    def uniform(self, *_: Any, size: Any = None) -> Any:
        return np.ones(size)


def test_a_set_is_that_of_mapie_without_its_random_draw() -> None:
    from mapie.classification import SplitConformalClassifier  # takes seconds

    scores, truth = drawn(np.random.default_rng(3), 600)
    shares = [0.3, 0.8, 0.9, 0.95]
    peer = SplitConformalClassifier(
        GivenScores(12),
        confidence_level=shares,
        conformity_score="aps",
        random_state=AlwaysOne(),
    )
    peer.conformalize(scores[:300], truth[:300])
    _, sets = peer.predict_set(scores[300:])  # [N, C, K]
    held_out = HeldOut(None, np.sort(mass_before(scores[:300], truth[:300])))
    for share, theirs in zip(shares, np.moveaxis(sets, -1, 0), strict=True):
        for row, expected in zip(scores[300:], theirs, strict=True):
            assert sorted(label_set(row, share, held_out)) == np.flatnonzero(expected).tolist()


def test_a_held_out_image_whose_mass_is_the_quantile_has_its_label_in_its_set() -> None:
    """To the last bit: the set is decided by the very sums that the quantile is of."""
    scores, truth = drawn(np.random.default_rng(1), 199, labels=40)
    masses = mass_before(scores, truth)
    held_out = HeldOut(None, np.sort(masses))
    for share in (0.8, 0.9, 0.95):
        inside = [
            label in label_set(row, share, held_out)
            for row, label in zip(scores, truth, strict=True)
        ]
        assert sum(inside) >= math.ceil(200 * share)
        assert inside == (masses <= enough(np.sort(masses), share)).tolist()


@pytest.mark.parametrize("share", [0.8, 0.9, 0.95, 0.99])
def test_the_right_label_is_in_the_set_with_the_promised_probability(share: float) -> None:
    """Over many sets of held-out images, each with one new image: neither less nor, as masses of
    different images hardly tie above 0, much more.
    """
    random = np.random.default_rng(0)
    trials, images = 1500, 199
    inside = 0
    for _ in range(trials):
        scores, truth = drawn(random, images + 1)
        masses = mass_before(scores, truth)
        held_out = HeldOut(None, np.sort(masses[:-1]))
        inside += int(truth[-1]) in label_set(scores[-1], share, held_out)
    low, high = binom.ppf([1e-4, 1 - 1e-4], trials, [share, share + 1 / (images + 1)])
    assert low <= inside <= high


def test_a_set_is_never_empty_and_grows_with_the_coverage() -> None:
    scores, truth = drawn(np.random.default_rng(2), 300)
    held_out = HeldOut(None, np.sort(mass_before(scores, truth)))
    for row in scores[:50]:
        sets = [label_set(row, share, held_out) for share in (0.001, 0.5, 0.9, 0.99, 0.999)]
        assert sets[0] and sets[0][0] == int(row.argmax())
        for smaller, larger in zip(sets, sets[1:], strict=False):
            assert larger[: len(smaller)] == smaller


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan")])
def test_another_coverage_is_refused(share: float) -> None:
    manifest, _ = novel_models.content("colours", 1, "single")
    coverage.check_coverage(0.9, manifest)
    with pytest.raises(BadParameter, match="use a number between 0 and 1"):
        coverage.check_coverage(share, manifest)


def test_a_model_without_sets_refuses_a_coverage() -> None:
    multi, _ = novel_models.content("tags", 1, "multi")
    for manifest in (multi, bundles.manifest()):
        with pytest.raises(BadParameter, match=r"coverage=0\.9: \w+:1 has no sets of labels"):
            coverage.check_coverage(0.9, manifest)


@pytest.mark.parametrize("images", [1, 2, 6, 98, 199, 1155, 9999])
def test_the_coverage_that_a_refusal_names_is_accepted(images: int) -> None:
    """Also where it has to be rounded."""
    manifest, _ = novel_models.content("colours", 1, "single")
    promised = manifest.conformal
    assert promised is not None
    few = manifest.model_copy(update={"conformal": promised.model_copy(update={"images": images})})
    with pytest.raises(BadParameter, match=f"which {images:,} held-out images") as refused:
        coverage.check_coverage(0.99999, few)
    named = re.search(r"at most ([\d.]+),", str(refused.value))
    assert named is not None
    coverage.check_coverage(float(named[1]), few)
    assert not math.isinf(coverage.enough(np.zeros(images), float(named[1])))
    assert math.isinf(coverage.enough(np.zeros(images), float(named[1]) + 0.0002))
