from pathlib import Path

import numpy as np
import pytest

from models import bundle
from models.bundle import Bundle
from models.errors import BundleError, GateError
from models.manifest import GOLDEN_SCORES_FILE, MODEL_FILE, Preprocess, Task, Tensors
from serving.cores import gpus
from serving.session import CPU, CUDA, DeviceError, Session
from tests import tiny


def _bundle(store: Path, name: str) -> Bundle:
    return bundle.read(store / name / "1")


def _session(whole: Bundle, device: str = "cpu") -> Session:
    return Session(whole, device, threads=1, worker=0, max_batch=8)


def _images(count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    shape = (count, tiny.SIZE_PX, tiny.SIZE_PX, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize(("name", "task"), [("colours", "single"), ("tags", "multi")])
def test_scores_are_those_of_the_independent_reference(store: Path, name: str, task: Task) -> None:
    images = _images(5)
    scores = _session(_bundle(store, name)).run(images)
    assert scores.dtype == np.float32
    assert scores.shape == (5, 3)
    np.testing.assert_allclose(scores, tiny.reference_scores(images, task), atol=1e-5)


def test_a_batch_gives_what_its_images_give_alone(store: Path) -> None:
    session = _session(_bundle(store, "colours"))
    images = _images(7)
    alone = np.concatenate([session.run(image[None]) for image in images])
    np.testing.assert_allclose(session.run(images), alone, atol=1e-6)


def test_the_golden_images_prove_the_session(store: Path) -> None:
    whole = _bundle(store, "tags")
    _session(whole).prove(whole)


def test_wrong_golden_scores_are_found(store: Path) -> None:
    whole = _bundle(store, "colours")
    wrong = whole.files[GOLDEN_SCORES_FILE].replace(b"0.99", b"0.98")
    assert wrong != whole.files[GOLDEN_SCORES_FILE]
    changed = Bundle(whole.path, whole.manifest, {**whole.files, GOLDEN_SCORES_FILE: wrong})
    with pytest.raises(GateError, match="scores differ"):
        _session(changed).prove(changed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tensors": Tensors(images="pixels", maps=None)}, "no tensor 'pixels'; .*'images'"),
        ({"tensors": Tensors(scores="logits", maps=None)}, "no tensor 'logits'; .*'scores'"),
        ({"tensors": Tensors()}, "no tensor 'maps'"),
        ({"preprocess": Preprocess(image_size_px=32, crop_fraction=1)}, "not .* 32, 32, 3"),
        ({"labels": ("red", "green")}, "not .*N, 2"),
    ],
)
def test_a_network_that_is_not_the_manifests_is_refused(
    store: Path, change: dict[str, object], message: str
) -> None:
    whole = _bundle(store, "colours")
    other = Bundle(whole.path, whole.manifest.model_copy(update=change), whole.files)
    with pytest.raises(BundleError, match=message):
        _session(other)


def test_bytes_that_are_no_network_are_refused(store: Path) -> None:
    whole = _bundle(store, "colours")
    broken = Bundle(whole.path, whole.manifest, {**whole.files, MODEL_FILE: b"no network"})
    with pytest.raises(BundleError, match="colours.*refuses the network"):
        _session(broken)


@pytest.mark.skipif(gpus() > 0, reason="there is a GPU")
def test_without_a_gpu_cuda_is_an_error_and_auto_is_the_cpu(store: Path) -> None:
    whole = _bundle(store, "colours")
    with pytest.raises(DeviceError, match="no GPU"):
        _session(whole, "cuda")
    assert _session(whole, "auto").provider == CPU


@pytest.mark.gpu
@pytest.mark.skipif(gpus() == 0, reason="no NVIDIA GPU")
@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_on_a_gpu_cuda_runs_and_batches_are_padded_to_buckets(store: Path, device: str) -> None:
    whole = _bundle(store, "colours")
    session = _session(whole, device)
    assert (session.provider, session.buckets) == (CUDA, [1, 2, 4, 8])
    session.prove(whole)
    images = _images(3)
    np.testing.assert_allclose(
        session.run(images), tiny.reference_scores(images, "single"), atol=2e-3
    )
