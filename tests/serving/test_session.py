from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from models import bundle
from models.bundle import Bundle
from models.errors import GateError
from models.manifest import GOLDEN_SCORES_FILE, Task
from serving.forms import open_proved
from serving.session import Place, Session
from serving.settings import Settings
from testkit import tiny_models

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
