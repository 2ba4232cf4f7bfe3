import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models import bundle
from models.bundle import Bundle
from models.errors import BundleError
from models.manifest import MODEL_FILE, Preprocess, Tensors
from testkit import novel_models, tiny_models
from tests.serving.test_session import bundle_of, images_of, session_of


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


def _add_novelty(
    graph: onnx.GraphProto, kind: int = TensorProto.FLOAT, name: str = "novelty"
) -> None:
    """One number for each label in the place of one for each image."""
    graph.output.append(helper.make_tensor_value_info(name, kind, ["N", 3]))
    graph.node.append(helper.make_node("Cast", ["scores"], [name], to=kind))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": TensorProto.DOUBLE}, "is tensor(double) ['N', 3], not tensor(float) [N]"),
        ({}, "is tensor(float) ['N', 3], not tensor(float) [N]"),
        ({"name": "strangeness"}, "no tensor 'novelty'; there are ['scores', 'strangeness']"),
    ],
    ids=["kind", "shape", "name"],
)
def test_another_novelty_than_the_manifest_promises_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    whole = bundle.read(novel_models.add(tmp_path, "colours", "single"))
    plain = replace(whole, files={**whole.files, "model.onnx": tiny_models.network("single")})
    changed = _with_graph(plain, partial(_add_novelty, **change))
    with pytest.raises(BundleError, match=re.escape(message)):
        session_of(replace(whole, files=changed.files))


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
