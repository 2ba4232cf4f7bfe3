import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models import bundle
from models.bundle import Bundle
from models.errors import BundleError, GateError
from models.manifest import GOLDEN_SCORES_FILE, MODEL_FILE, Preprocess, Task, Tensors
from serving.hardware import gpus
from serving.session import CPU, DeviceError, Place, Session, open_proved
from serving.settings import Settings
from testkit import tiny_models

Device = Literal["auto", "cuda", "cpu"]


def bundle_of(store: Path, name: str) -> Bundle:
    return bundle.read(store / name / "1")


PLACE = Place(threads=1, worker=0)


def session_of(whole: Bundle, device: Device = "cpu") -> Session:
    return Session(whole, whole.manifest.variants[0], Settings(device=device, max_batch=8), PLACE)


def images_of(count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    shape = (count, tiny_models.SIZE_PX, tiny_models.SIZE_PX, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_batches_are_small_on_a_cpu_by_default(store: Path) -> None:
    whole = bundle_of(store, "colours")
    settings = Settings(device="cpu")
    assert Session(whole, whole.manifest.variants[0], settings, PLACE).max_batch == 8
    settings = Settings(device="cpu", max_batch=16)
    assert Session(whole, whole.manifest.variants[0], settings, PLACE).max_batch == 16


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
        session_of(changed).prove(changed)


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
def test_a_network_that_does_not_match_the_manifest_is_refused(
    store: Path, change: dict[str, object], message: str
) -> None:
    whole = bundle_of(store, "colours")
    other = Bundle(whole.path, whole.manifest.model_copy(update=change), whole.files)
    with pytest.raises(BundleError, match=message):
        session_of(other)


def test_bytes_that_are_not_a_network_are_refused(store: Path) -> None:
    whole = bundle_of(store, "colours")
    broken = Bundle(whole.path, whole.manifest, {**whole.files, MODEL_FILE: b"no network"})
    with pytest.raises(BundleError, match="colours.*can't load the network"):
        session_of(broken)


def _with_int8(folder: Path, int8: bytes) -> Bundle:
    return bundle.read(tiny_models.add(folder, "colours", "single", int8=int8))


def test_auto_uses_int8_on_a_cpu_if_the_bundle_has_it(tmp_path: Path) -> None:
    whole = _with_int8(tmp_path, tiny_models.network("single", tiny_models.WEIGHTS * 1.01))
    chosen = open_proved(whole, Settings(device="cpu"), PLACE)
    exact = open_proved(whole, Settings(device="cpu", precision="fp32"), PLACE)
    assert (chosen.variant.precision, exact.variant.precision) == ("int8", "fp32")
    assert chosen.why == "auto on a CPU: int8 passed its gate"
    assert exact.why == "LABRADOR_PRECISION=fp32"
    images = images_of(4)
    assert not np.array_equal(chosen.run(images), exact.run(images))


def test_auto_uses_fp32_if_there_is_nothing_else(store: Path) -> None:
    session = open_proved(bundle_of(store, "tags"), Settings(device="cpu"), PLACE)
    assert session.variant.precision == "fp32"
    assert session.why == "auto on a CPU: the bundle has no int8"


@pytest.mark.parametrize(
    ("int8", "failed"),
    [
        (b"no network", "did not load"),
        (tiny_models.network("single", -tiny_models.WEIGHTS), "failed its golden images"),
    ],
)
def test_auto_falls_back_from_a_variant_that_fails_here(
    int8: bytes, failed: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = _with_int8(tmp_path, int8)
    session = open_proved(whole, Settings(device="cpu"), PLACE)
    assert session.variant.precision == "fp32"
    assert session.why == f"auto on a CPU: int8 {failed} here"
    (record,) = caplog.records
    assert record.name == "serving.session"
    assert record.getMessage().startswith(f"{whole.path}: falling back from int8: ")
    assert len(record.getMessage()) > len(f"{whole.path}: falling back from int8: None")
    with pytest.raises((BundleError, GateError)):
        open_proved(whole, Settings(device="cpu", precision="int8"), PLACE)


def test_a_precision_that_the_bundle_lacks_is_refused_with_the_available_ones(
    tmp_path: Path,
) -> None:
    whole = _with_int8(tmp_path, tiny_models.network("single"))
    with pytest.raises(BundleError, match="^colours:1 has no fp16; it has fp32, int8$"):
        open_proved(whole, Settings(device="cpu", precision="fp16"), PLACE)


@pytest.mark.skipif(gpus() > 0, reason="there is a GPU")
def test_without_a_gpu_cuda_is_an_error_and_auto_uses_the_cpu(store: Path) -> None:
    whole = bundle_of(store, "colours")
    with pytest.raises(DeviceError, match="no GPU"):
        session_of(whole, "cuda")
    assert session_of(whole, "auto").provider == CPU


def _with_graph(whole: Bundle, change: Callable[[onnx.GraphProto], object]) -> Bundle:
    """The bundle with a changed network, and a manifest that names its maps if it has them."""
    model = onnx.load_from_string(whole.files[MODEL_FILE])
    change(model.graph)
    tensors = Tensors(maps="maps" if len(model.graph.output) > 1 else None)
    manifest = whole.manifest.model_copy(update={"tensors": tensors})
    return Bundle(whole.path, manifest, {**whole.files, MODEL_FILE: model.SerializeToString()})


def _add_maps(graph: onnx.GraphProto, kind: int = TensorProto.FLOAT, labels: int = 3) -> None:
    """Maps of one position `[N, C, 1, 1]`."""
    graph.node.append(helper.make_node("Cast", ["logits"], ["cast"], to=kind))
    shape = numpy_helper.from_array(np.array([-1, labels, 1, 1], np.int64), "shape")
    graph.initializer.append(shape)
    graph.node.append(helper.make_node("Reshape", ["cast", "shape"], ["maps"]))
    graph.output.append(helper.make_tensor_value_info("maps", kind, ["N", labels, 1, 1]))


def test_a_network_with_maps_is_run_for_its_scores(store: Path) -> None:
    images = images_of(2)
    scores = session_of(_with_graph(bundle_of(store, "colours"), _add_maps)).run(images)
    np.testing.assert_allclose(scores, tiny_models.reference_scores(images, "single"), atol=1e-5)


def _add_input(graph: onnx.GraphProto) -> None:
    graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["N"]))


def _take_floats(graph: onnx.GraphProto) -> None:
    graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def _fix_the_batch(graph: onnx.GraphProto) -> None:
    graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_add_input, "the network has the inputs ['images', 'more'], not one"),
        (
            _take_floats,
            "tensor 'images' is tensor(float) ['N', 16, 16, 3], not tensor(uint8) [N, 16, 16, 3]",
        ),
        (
            _fix_the_batch,
            "tensor 'images' is tensor(uint8) [4, 16, 16, 3], not tensor(uint8) [N, 16, 16, 3]",
        ),
        (
            partial(_add_maps, kind=TensorProto.DOUBLE),
            "tensor 'maps' is tensor(double) ['N', 3, 1, 1], not tensor(float) [N, 3]",
        ),
        (
            partial(_add_maps, labels=1),
            "tensor 'maps' is tensor(float) ['N', 1, 1, 1], not tensor(float) [N, 3]",
        ),
    ],
)
def test_a_network_with_other_tensors_is_refused(
    store: Path, change: Callable[[onnx.GraphProto], object], message: str
) -> None:
    changed = _with_graph(bundle_of(store, "colours"), change)
    with pytest.raises(BundleError, match=f"^{re.escape(f'colours: {message}')}$"):
        session_of(changed)
