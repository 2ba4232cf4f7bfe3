import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from models import bundle
from models.bundle import Bundle
from models.errors import BundleError, GateError
from models.manifest import GOLDEN_NOVELTY_FILE, GOLDEN_SCORES_FILE, Task
from serving.forms import open_proved
from serving.session import Place, Session
from serving.settings import Settings
from testkit import novel_models, tiny_models

Device = Literal["auto", "cuda", "cpu"]


def bundle_of(store: Path, name: str) -> Bundle:
    return bundle.read(store / name / "1")


PLACE = Place(threads=1, worker=0)


def session_of(whole: Bundle, device: Device = "cpu") -> Session:
    """Of the bundle's only variant."""
    return open_proved(whole, Settings(device=device, max_batch=8), PLACE)


def images_of(count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    shape = (count, tiny_models.SIZE_PX, tiny_models.SIZE_PX, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_batches_are_small_on_a_cpu_by_default(store: Path) -> None:
    whole = bundle_of(store, "colours")
    settings = Settings(device="cpu")
    assert open_proved(whole, settings, PLACE).max_batch == 8
    settings = Settings(device="cpu", max_batch=16)
    assert open_proved(whole, settings, PLACE).max_batch == 16


@pytest.mark.parametrize(("name", "task"), [("colours", "single"), ("tags", "multi")])
def test_scores_are_those_of_the_independent_reference(store: Path, name: str, task: Task) -> None:
    images = images_of(5)
    scores = session_of(bundle_of(store, name)).run(images)
    assert scores.dtype == np.float32
    assert scores.shape == (5, 3)
    np.testing.assert_allclose(scores, tiny_models.reference_scores(images, task), atol=1e-5)


def test_a_batch_gives_the_same_scores_as_its_images_alone(store: Path) -> None:
    session = session_of(bundle_of(store, "colours"))
    images = images_of(7)
    alone = np.concatenate([session.run(image[None]) for image in images])
    np.testing.assert_allclose(session.run(images), alone, atol=1e-6)


def test_the_golden_images_verify_the_session(store: Path) -> None:
    whole = bundle_of(store, "tags")
    session_of(whole).prove(whole)


def test_wrong_golden_scores_are_detected(store: Path) -> None:
    whole = bundle_of(store, "colours")
    wrong = whole.files[GOLDEN_SCORES_FILE].replace(b"0.99", b"0.98")
    assert wrong != whole.files[GOLDEN_SCORES_FILE]
    changed = Bundle(whole.path, whole.manifest, {**whole.files, GOLDEN_SCORES_FILE: wrong})
    with pytest.raises(GateError, match="scores differ"):
        session_of(changed)


@pytest.mark.parametrize("task", ["single", "multi"])
def test_novelty_comes_with_the_scores_in_one_run(tmp_path: Path, task: Task) -> None:
    whole = bundle.read(novel_models.add(tmp_path, "colours", task))
    session = session_of(whole)
    images = images_of(5)
    outputs = session.outputs(images)
    assert outputs.novelty is not None and outputs.novelty.dtype == np.float32
    expected = novel_models.reference_novelty(images)
    np.testing.assert_allclose(outputs.novelty, expected, rtol=1e-4)
    np.testing.assert_array_equal(outputs.scores, session.run(images))
    assert outputs.maps is None
    assert session.held_out is not None and session.held_out.novelty is not None
    assert len(session.held_out.novelty) == novel_models.HELD_OUT
    assert (session.held_out.mass_before is None) is (task == "multi")


def test_a_bundle_from_before_has_neither_novelty_nor_held_out_values(store: Path) -> None:
    session = session_of(bundle_of(store, "colours"))
    assert session.outputs(images_of(2)).novelty is None
    assert session.held_out is None


def test_the_values_are_those_of_the_form_that_serves(tmp_path: Path) -> None:
    whole = bundle.read(novel_models.add(tmp_path, "colours", "single", int8=True))
    forms = json.loads(whole.files["conformal.json"])
    forms["forms"]["int8"]["novelty"][-1] = 7.0
    files = {**whole.files, "conformal.json": json.dumps(forms).encode()}
    for precision, largest in (("fp32", 0.05), ("int8", 7.0)):
        settings = Settings(device="cpu", precision=precision)
        session = open_proved(Bundle(whole.path, whole.manifest, files), settings, PLACE)
        assert session.held_out is not None and session.held_out.novelty is not None
        assert session.held_out.novelty.max() == pytest.approx(largest)


@pytest.mark.parametrize("factor", [1.01, 0.5])
def test_wrong_golden_novelty_is_detected(tmp_path: Path, factor: float) -> None:
    whole = bundle.read(novel_models.add(tmp_path, "colours", "single"))
    table = json.loads(whole.files[GOLDEN_NOVELTY_FILE])
    last = list(table)[-1]
    wrong = json.dumps({**table, last: table[last] * factor}).encode()
    changed = Bundle(whole.path, whole.manifest, {**whole.files, GOLDEN_NOVELTY_FILE: wrong})
    with pytest.raises(GateError, match=r"novelty differs by \S+ of it, more than 0\.001: image 9"):
        session_of(changed)


def test_values_that_the_manifest_does_not_promise_are_refused(tmp_path: Path) -> None:
    whole = bundle.read(novel_models.add(tmp_path, "colours", "single"))
    forms = json.loads(whole.files["conformal.json"])
    forms["forms"]["fp32"]["novelty"].pop()
    files = {**whole.files, "conformal.json": json.dumps(forms).encode()}
    with pytest.raises(BundleError, match="fp32 has 198 values of novelty, not 199"):
        session_of(Bundle(whole.path, whole.manifest, files))
