"""The promise, in simulation, and the file that it is kept in."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from models import bundle as bundles
from models import conformal
from models.bundle import Bundle
from models.conformal import HeldOut, Novelty
from models.errors import BadParameter, BundleError
from models.manifest import Manifest
from testkit import bundles as plain
from testkit import novel_models

VALUES = np.array([0.5, 1, 1, 2, 4], np.float32)


def of(novelty: NDArray[np.float32]) -> HeldOut:
    return HeldOut(novelty, None)


@pytest.mark.parametrize(
    ("novelty", "at_least"),
    [(0.1, 5), (0.5, 5), (0.75, 4), (1, 4), (1.5, 2), (4, 1), (4.5, 0)],
)
def test_a_p_value_counts_the_held_out_images_that_are_at_least_as_strange(
    novelty: float, at_least: int
) -> None:
    assert conformal.judge(novelty, of(VALUES), 0.01).p_value == (1 + at_least) / 6


def test_p_values_are_those_of_the_definition() -> None:
    random = np.random.default_rng(0)
    known = np.sort(random.integers(0, 30, 200).astype(np.float32))  # with ties
    new = random.integers(-2, 33, 100).astype(np.float32)
    expected = [(1 + sum(each >= one for each in known)) / 201 for one in new]
    assert conformal.p_values(new, known).tolist() == expected


def test_the_p_value_of_a_held_out_image_is_by_the_others_only() -> None:
    for row, p_value in enumerate(conformal.p_values_among(VALUES)):
        others = np.delete(VALUES, row)
        assert p_value == conformal.judge(VALUES[row], of(others), 0.01).p_value


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_at_most_a_share_alpha_of_images_like_the_held_out_ones_is_unknown(alpha: float) -> None:
    """Over many sets of held-out images of the same kind, each with one new image."""
    random = np.random.default_rng(0)
    trials, images = 4000, 99
    values = np.sort(random.gamma(2, size=(trials, images)).astype(np.float32))
    new = random.gamma(2, size=trials).astype(np.float32)
    unknown = sum(
        conformal.judge(one, of(known), alpha).unknown
        for one, known in zip(new, values, strict=True)
    )
    low, high = binom.ppf([1e-4, 1 - 1e-4], trials, alpha)
    assert low <= unknown <= high


@pytest.mark.parametrize("images", [99, 199, 999])
def test_an_image_stranger_than_all_is_unknown_at_the_least_alpha_that_is_promised(
    images: int,
) -> None:
    known = of(np.arange(images, dtype=np.float32))
    least = conformal.least_alpha(images)
    assert conformal.judge(images, known, least) == Novelty(least, unknown=True)
    assert not conformal.judge(images, known, np.nextafter(least, 0)).unknown
    assert not conformal.judge(images - 1, known, least).unknown


@pytest.mark.parametrize(
    ("alpha", "images"), [(0.01, 99), (0.05, 19), (0.001, 999), (0.07, 14), (0.5, 1)]
)
def test_an_alpha_needs_so_many_images_and_no_fewer(alpha: float, images: int) -> None:
    assert conformal.images_for(alpha) == images
    assert conformal.least_alpha(images) <= alpha < conformal.least_alpha(images - 1)


def test_the_file_keeps_every_value_exactly() -> None:
    random = np.random.default_rng(0)
    novelty, mass = random.random(50).astype(np.float32), random.random(50)
    content = conformal.file_of({"fp32": HeldOut(novelty, mass), "int8": HeldOut(novelty, None)})
    read = conformal.parse(content, "file")
    assert list(read) == ["fp32", "int8"]
    fp32 = read["fp32"]
    assert fp32.novelty is not None and fp32.mass_before is not None
    assert fp32.novelty.dtype == np.float32 and fp32.novelty.tolist() == sorted(novelty.tolist())
    assert fp32.mass_before.tolist() == sorted(mass.tolist())
    assert read["int8"].mass_before is None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"novelty": [2, 1], "mass_before": [0, 0]}, r"forms\.fp32: Value error, values must asc"),
        ({"novelty": [1, float("nan")]}, "finite number|Invalid JSON"),
        ({"other": [1]}, "Extra inputs"),
    ],
    ids=["descending", "nan", "unknown key"],
)
def test_a_damaged_file_is_refused_in_one_line(change: dict[str, Any], problem: str) -> None:
    content = json.dumps({"forms": {"fp32": change}}).encode()
    with pytest.raises(BundleError, match=problem) as caught:
        conformal.parse(content, "conformal.json")
    assert str(caught.value).startswith("conformal.json is invalid: ")
    assert "\n" not in str(caught.value)


@pytest.fixture
def whole(tmp_path: Path) -> Bundle:
    return bundles.read(novel_models.add(tmp_path, "colours", "single", int8=True))


def test_each_form_has_its_own_values(whole: Bundle) -> None:
    forms = json.loads(whole.files["conformal.json"])["forms"]
    forms["int8"]["novelty"] = [2 * value for value in forms["int8"]["novelty"]]
    files = {**whole.files, "conformal.json": json.dumps({"forms": forms}).encode()}
    other = Bundle(whole.path, whole.manifest, files)
    fp32, int8 = conformal.held_out(other, "fp32"), conformal.held_out(other, "int8")
    assert fp32 is not None and fp32.novelty is not None
    assert int8 is not None and int8.novelty is not None
    np.testing.assert_allclose(int8.novelty, 2 * fp32.novelty)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda forms: forms.pop("int8"), "has no int8; it has fp32"),
        (lambda forms: forms["int8"]["novelty"].pop(), "int8 has 198 values of novelty, not 199"),
        (lambda forms: forms["int8"].pop("novelty"), "int8 has no values of novelty, not 199"),
        (
            lambda forms: forms["int8"].pop("mass_before"),
            "int8 has no values of mass_before, not 199",
        ),
    ],
    ids=["form missing", "value missing", "novelty missing", "mass missing"],
)
def test_a_file_without_what_the_manifest_promises_is_refused(
    whole: Bundle, change: Any, problem: str
) -> None:
    forms = json.loads(whole.files["conformal.json"])["forms"]
    change(forms)
    files = {**whole.files, "conformal.json": json.dumps({"forms": forms}).encode()}
    with pytest.raises(BundleError, match=problem):
        conformal.held_out(Bundle(whole.path, whole.manifest, files), "int8")


def test_a_bundle_from_before_promises_nothing(tmp_path: Path) -> None:
    written = plain.written(tmp_path / "bundle")
    assert conformal.held_out(bundles.read(written), "fp32") is None


def manifest_of(**changes: Any) -> Manifest:
    manifest, _ = novel_models.content("colours", 1, "single")
    return manifest.model_copy(update=changes)


@pytest.mark.parametrize("alpha", [1 / 200, 0.05, 0.99])
def test_an_alpha_that_can_be_promised_is_accepted(alpha: float) -> None:
    conformal.check_alpha(alpha, manifest_of())


@pytest.mark.parametrize("alpha", [0.0049, 0, -1, 1, 2, float("nan")])
def test_another_alpha_is_refused_with_the_least_one(alpha: float) -> None:
    with pytest.raises(BadParameter, match=r"alpha=\S+: use 0\.005, the least that 199 held-out"):
        conformal.check_alpha(alpha, manifest_of())


def test_alpha_is_refused_without_novelty() -> None:
    with pytest.raises(BadParameter, match=r"alpha=0\.05: pets:1 has no novelty"):
        conformal.check_alpha(0.05, plain.manifest())


def test_the_images_kept_are_those_with_the_smallest_hashes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conformal, "MOST", 3)
    assert conformal.chosen(["d", "a", "e", "b", "c"]) == [1, 3, 4]
    assert conformal.chosen(["b", "a"]) == [1, 0]


@pytest.mark.parametrize("images", [1, 2, 6, 98, 199, 1155, 10_000])
def test_the_alpha_that_a_refusal_names_is_accepted(images: int) -> None:
    """Also where it has to be rounded."""
    promised = manifest_of().conformal
    assert promised is not None
    few = manifest_of(conformal=promised.model_copy(update={"images": images}))
    with pytest.raises(BadParameter) as refused:
        conformal.check_alpha(0, few)
    named = re.search(r"use ([\d.e-]+),", str(refused.value))
    assert named is not None
    conformal.check_alpha(float(named[1]), few)
