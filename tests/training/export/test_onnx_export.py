import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from models.bundle import Bundle
from training.export.onnx_export import onnx_bytes
from training.network.resnet import Served
from training.run_folder import Run


def test_the_tensors_are_the_promised_ones(bundle: Bundle) -> None:
    session = onnxruntime.InferenceSession(bundle.model, providers=["CPUExecutionProvider"])
    described = [
        [(tensor.name, tensor.type, tensor.shape) for tensor in tensors]
        for tensors in (session.get_inputs(), session.get_outputs())
    ]
    assert described == [
        [("images", "tensor(uint8)", ["batch", 32, 32, 3])],
        [
            ("scores", "tensor(float)", ["batch", 3]),
            ("maps", "tensor(float)", ["batch", 3, 1, 1]),
            ("novelty", "tensor(float)", ["batch"]),
        ],
    ]
    names = bundle.manifest.tensors
    assert (names.images, names.scores, names.maps) == ("images", "scores", "maps")
    assert names.novelty == "novelty"


@pytest.mark.parametrize("count", [1, 2, 5])
def test_scores_maps_and_novelty_match_torch_for_any_number_of_images(
    bundle: Bundle, run: Run, count: int
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(bundle.model, providers=["CPUExecutionProvider"])
    outcome = run.outcome
    network = Served(run.network(), outcome.task, outcome.temperature, run.novelty()).eval()
    with torch.inference_mode():
        expected = network(torch.from_numpy(images))
    assert len(expected) == 3
    for found, reference in zip(session.run(None, {"images": images}), expected, strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, reference.numpy(), rtol=1e-4, atol=1e-4)


def test_maps_grow_with_the_image(single_run: Run, single_bundle: Bundle) -> None:
    """The graph for another size, through the real exporter."""
    network = Served(single_run.network(), "single", 1.0).eval()
    session = onnxruntime.InferenceSession(onnx_bytes(network, 64))
    assert session.get_outputs()[1].shape == ["batch", 3, 2, 2]
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    scores, maps = session.run(None, {"images": images})
    means = maps.mean((2, 3))
    powers = np.exp(means - means.max(1, keepdims=True))
    np.testing.assert_allclose(scores, powers / powers.sum(1, keepdims=True), atol=1e-5)


def test_the_graph_is_one_valid_file_of_default_operators(bundle: Bundle, run: Run) -> None:
    graph = onnx.load_from_string(bundle.model)
    onnx.checker.check_model(graph, full_check=True)
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", 20)]
    assert bundle.manifest.opset == 20
    assert not any(tensor.external_data for tensor in graph.graph.initializer)
    inside = sum(len(tensor.raw_data) for tensor in graph.graph.initializer)
    assert inside > 0.95 * 4 * sum(weight.numel() for weight in run.network().parameters())


def test_the_graph_names_no_path_of_this_machine(bundle: Bundle) -> None:
    """In names and texts only: any three letters may occur among the weights' bytes."""
    graph = onnx.load_from_string(bundle.model)
    attributes = (one for node in graph.graph.node for one in node.attribute if one.HasField("t"))
    for tensor in (*graph.graph.initializer, *(one.t for one in attributes)):
        tensor.ClearField("raw_data")
    texts = graph.SerializeToString()
    assert b"images" in texts and len(texts) < len(bundle.model) / 4
    machine = [Path(__file__).parents[2], Path.home(), Path(torch.__file__).parents[1], sys.prefix]
    for path in [*map(str, machine), "site-packages", ".py"]:
        assert path == "/" or path.encode() not in texts, path
