from collections import Counter
from pathlib import Path

import numpy as np
import onnx.utils
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from models import bundle as bundles
from models.bundle import Bundle
from models.errors import GateError
from models.manifest import Precision
from models.store import Store
from testkit import constructed_run
from tests.training.conftest import Once
from training import run_folder
from training.commands.export import print_result
from training.export import export, forms, gate, reduced_precision
from training.export.run_images import training_images
from training.run_folder import Run

pytestmark = pytest.mark.usefixtures("real_networks")
REDUCED = ("fp16", "int8")  # what `forms.REDUCED` is outside tests


@pytest.fixture(scope="module", name="run")
def run_without_training(real_networks: None, single_data: Path, once: Once) -> Run:
    made = once("constructed-run", lambda folder: constructed_run.colours(single_data, folder))
    return run_folder.read(made)


@pytest.fixture(scope="module")
def both(run: Run, once: Once) -> Bundle:
    """A bundle with each precision, through the real gates."""

    def fill(folder: Path) -> None:
        export.export(run, "colours", Store(folder), precisions=["fp16", "int8"])

    return Store(once("variants", fill)).read("colours")


def test_novelty_stays_float32_in_every_precision(run: Run, both: Bundle) -> None:
    """Its constants, and its result but for what the features are off by."""
    distance = run.novelty()
    assert distance is not None
    whole = {
        t.name: numpy_helper.to_array(t)
        for t in onnx.load_from_string(both.model).graph.initializer
    }
    constants = {name: value for name, value in whole.items() if name.startswith("novelty.")}
    assert len(constants) == 5
    features = {}
    for precision, file in (
        (variant.precision, variant.file) for variant in both.manifest.variants
    ):
        made = onnx.load_from_string(both.files[file])
        stored = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
        for name, value in constants.items():
            assert stored[name].dtype == np.float32 and np.array_equal(stored[name], value), name
        made_by = {name: node for node in made.graph.node for name in node.output}
        pooled = next(node for node in made.graph.node if node.op_type == "ReduceMean").output[0]
        made.graph.output.append(onnx.helper.make_empty_tensor_value_info(pooled))
        assert made_by["novelty"].op_type == "ReduceMin"
        session = onnxruntime.InferenceSession(
            made.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        found, strangeness = session.run([pooled, "novelty"], {"images": images(8)})
        assert strangeness.dtype == np.float32
        expected = distance.of(found.reshape(8, -1).astype(np.float32))
        # on a CPU, which has no fp16 units, the features are not always rounded to fp16
        np.testing.assert_allclose(strangeness, expected, rtol=2e-3)
        features[precision] = found
    assert not np.array_equal(features["fp32"], features["int8"])


def images(count: int = 16) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def initializers(model: bytes) -> Counter[int]:
    """How many numbers are stored in each type, but for those of novelty."""
    found: Counter[int] = Counter()
    for tensor in onnx.load_from_string(model).graph.initializer:
        if not tensor.name.startswith("novelty."):
            found[tensor.data_type] += int(np.prod(tensor.dims))
    return found


def test_each_precision_is_listed_with_what_its_gate_measured(both: Bundle) -> None:
    listed = [(v.file, v.precision, v.gate.tolerance) for v in both.manifest.variants]
    assert listed == [
        ("model.onnx", "fp32", gate.TOLERANCES["fp32"].score),
        ("model.fp16.onnx", "fp16", gate.TOLERANCES["fp16"].score),
        ("model.int8.onnx", "int8", gate.TOLERANCES["int8"].score),
    ]
    differences = [variant.gate.max_difference for variant in both.manifest.variants]
    assert 0 < differences[0] < differences[1] < differences[2]
    for variant in both.manifest.variants:
        assert variant.gate.metrics.keys() == both.manifest.variants[0].gate.metrics.keys()


def test_the_weights_are_stored_in_the_precision(both: Bundle) -> None:
    whole = initializers(both.files["model.onnx"])
    half = initializers(both.files["model.fp16.onnx"])
    bytes_ = initializers(both.files["model.int8.onnx"])
    assert whole[TensorProto.FLOAT] > 11e6
    assert half[TensorProto.FLOAT16] > 11e6 and half[TensorProto.FLOAT] < 1_000
    assert bytes_[TensorProto.INT8] > 11e6 and bytes_[TensorProto.FLOAT] < 0.1e6
    sizes = [len(both.files[v.file]) for v in both.manifest.variants]
    assert sizes[1] < 0.55 * sizes[0] and sizes[2] < 0.3 * sizes[0]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_tensors_are_those_of_fp32(both: Bundle, precision: str) -> None:
    described = []
    for file in ("model.onnx", f"model.{precision}.onnx"):
        session = onnxruntime.InferenceSession(both.files[file], providers=["CPUExecutionProvider"])
        tensors = (*session.get_inputs(), *session.get_outputs())
        described.append([(t.name, t.type, t.shape[1:]) for t in tensors])
        assert session.run(None, {"images": images(3)})[0].shape == (3, 3)
    assert described[0] == described[1]


def test_nothing_is_repeated_over_the_pixels_of_int8(both: Bundle) -> None:
    graph = onnx.load_from_string(both.files["model.int8.onnx"]).graph
    shapes = {constant.name: list(constant.dims) for constant in graph.initializer}
    pixels = [node for node in graph.node if node.op_type in ("Sub", "Div")][:2]
    assert [node.op_type for node in pixels] == ["Sub", "Div"]
    assert [shapes[node.input[1]] for node in pixels] == [[1, 3, 32, 32]] * 2


def test_int8_weights_have_a_scale_for_each_channel_and_activations_are_unsigned(
    both: Bundle,
) -> None:
    graph = onnx.load_from_string(both.files["model.int8.onnx"]).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) >= 20
    made_by = {name: node for node in graph.node for name in node.output}
    for node in convolutions[:20]:
        weights = made_by[node.input[1]]
        assert weights.op_type == "DequantizeLinear"
        assert constants[weights.input[0]].dtype == np.int8
        assert constants[weights.input[1]].size == constants[weights.input[0]].shape[0]
        pixels = made_by[node.input[0]]
        assert constants[pixels.input[2]].dtype == np.uint8


def test_the_ranges_come_from_the_images_and_from_nothing_else(run: Run, both: Bundle) -> None:
    same, dark = (
        reduced_precision.quantized(both.model, "images", training_images(run, None, 256) // by)
        for by in (1, 8)
    )
    assert same == both.files["model.int8.onnx"]
    assert dark != same


def test_fp16_is_a_valid_graph_of_the_weights_rounded_once(both: Bundle) -> None:
    whole, half = (onnx.load_from_string(both.files[f]) for f in ("model.onnx", "model.fp16.onnx"))
    onnx.checker.check_model(half, full_check=True)
    but_novelty = onnx.utils.Extractor(whole).extract_model(["images"], ["scores", "maps"])
    of_scores = {tensor.name for tensor in but_novelty.graph.initializer}
    exact = {tensor.name: numpy_helper.to_array(tensor) for tensor in whole.graph.initializer}
    for tensor in half.graph.initializer:
        rounded, one = numpy_helper.to_array(tensor), exact[tensor.name]
        kept = tensor.name.endswith((".mean", ".deviation")) or one.dtype != np.float32
        kept = kept or tensor.name not in of_scores
        assert np.array_equal(rounded, one if kept else one.astype(np.float16)), tensor.name


def test_fp16_computes_between_two_casts_and_its_pixels_and_scores_are_fp32(both: Bundle) -> None:
    graph = onnx.load_from_string(both.files["model.fp16.onnx"]).graph
    casts = [node for node in graph.node if node.op_type == "Cast"]
    to = [onnx.helper.get_attribute_value(node.attribute[0]) for node in casts]
    # of the pixels; once they are normalised; and back, for scores, maps and novelty
    assert to == [TensorProto.FLOAT, TensorProto.FLOAT16, *[TensorProto.FLOAT] * 3]
    kinds = {tensor.name: tensor.type.tensor_type.elem_type for tensor in graph.value_info}
    inferred = onnx.shape_inference.infer_shapes(
        onnx.load_from_string(both.files["model.fp16.onnx"])
    )
    for tensor in inferred.graph.value_info:
        wanted = tensor.type.tensor_type.elem_type
        assert kinds.get(tensor.name, wanted) == wanted, tensor.name


@pytest.fixture
def made(both: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Making the forms takes seconds: reuse them, for all are tried; their gates are real."""
    files = {v.precision: both.files[v.file] for v in both.manifest.variants}
    monkeypatch.setattr(export, "onnx_bytes", lambda *_: files["fp32"])
    monkeypatch.setattr(forms, "_reduced", lambda model, precision, images: files[precision])
    monkeypatch.setattr(forms, "REDUCED", REDUCED)


def tighten(monkeypatch: pytest.MonkeyPatch, precision: Precision) -> None:
    """Let the form fail its gate: its tolerance is below its rounding."""
    tight = {**gate.TOLERANCES, precision: gate.Tolerance(1e-7, 0.01, 0.02, 0.05)}
    monkeypatch.setattr(gate, "TOLERANCES", tight)


@pytest.mark.usefixtures("made")
def test_every_form_that_passes_is_exported_by_default(
    both: Bundle, run: Run, tmp_path: Path
) -> None:
    found = bundles.read(export.export(run, "colours", Store(tmp_path))).manifest
    assert [v.precision for v in found.variants] == ["fp32", "fp16", "int8"]
    assert (found.variants, found.left_out) == (both.manifest.variants, {})


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_form_that_fails_its_gate_is_left_out_by_default_and_the_reason_is_told(
    precision: Precision,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tighten(monkeypatch, precision)
    path = export.export(run, "colours", Store(tmp_path))
    found = bundles.read(path)
    other = "int8" if precision == "fp16" else "fp16"
    assert [v.precision for v in found.manifest.variants] == ["fp32", other]
    assert f"model.{precision}.onnx" not in found.files
    (reason,) = found.manifest.left_out.values()
    assert list(found.manifest.left_out) == [precision] and reason.startswith("scores differ by ")
    assert f"\n{precision} is left out: {reason}.\n" in found.files["MODEL_CARD.md"].decode()
    print_result(path, Store(tmp_path))
    text = capsys.readouterr().out
    assert f"\n{precision} left out: {reason}\n" in text
    where = {"int8": "the faster of fp32 and int8 on a CPU, fp32 on CUDA"}
    assert (
        f"\nwill serve: {where.get(other, 'fp32 on a CPU, the faster of fp32 and fp16 on')}" in text
    )


@pytest.mark.usefixtures("made")
def test_only_the_forms_asked_for_are_made(run: Run, tmp_path: Path) -> None:
    for asked, expected in ((["fp32"], ["fp32"]), (["int8", "int8"], ["fp32", "int8"])):
        path = export.export(run, "colours", Store(tmp_path), precisions=asked)  # type: ignore[arg-type]
        found = bundles.read(path).manifest
        assert [v.precision for v in found.variants] == expected
        assert found.left_out == {}


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_variant_that_fails_its_gate_is_not_written(
    precision: Precision, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it was asked for by name: it passes until its tolerance is below its rounding."""
    tighten(monkeypatch, precision)
    with pytest.raises(GateError, match=rf"^{precision}: scores differ by"):
        export.export(run, "colours", Store(tmp_path), precisions=[precision])
    assert Store(tmp_path).names() == []
