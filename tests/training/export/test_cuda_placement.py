"""ONNX Runtime's CUDA provider takes every node of the exported graphs; no GPU is needed to ask."""

from pathlib import Path

import numpy as np
import onnx.parser
import pytest

from benchmarks.gpu.plan import small
from benchmarks.gpu.trials import TRIALS, options_of
from models.bundle import Bundle
from testkit import no_gpu
from testkit.no_gpu import CPU, CUDA
from training.export.reduced_precision import halved, quantized
from training.run_folder import Run

pytestmark = pytest.mark.skipif(bool(no_gpu.missing()), reason=no_gpu.missing())
OPTIONS = {
    "device_id": "0",
    "use_tf32": "0",
    "gpu_mem_limit": str(2**30),
}  # serving/onnx_runtime.py
LAYERS = {"Cast", "Sub", "Div", "Transpose", "Conv", "Add", "MaxPool", "ReduceMean", "Gemm"}
WITHOUT_KERNEL = """
    <ir_version: 9, opset_import: ["": 20]>
    graph (float[N, 3, 3] x) => (float[N] y) { y = Det(x) }
"""
OF_SHAPES = """
    <ir_version: 9, opset_import: ["": 20]>
    graph (float[N, 3, 3] x) => (float[N, 9] y)
    <int64[1] first = {0}, int64[1] rest = {-1}> {
        shape = Shape(x)
        count = Gather(shape, first)
        flat = Concat<axis = 0>(count, rest)
        y = Reshape(x, flat)
    }
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of a process to which there is a GPU."""
    return no_gpu.pretending(tmp_path_factory.mktemp("cuda") / "libraries")


def test_cuda_has_a_kernel_for_every_node_with_its_types(
    run: Run, bundle: Bundle, tmp_path: Path, environment: dict[str, str]
) -> None:
    graphs = {"fp32": bundle.model, "fp16": halved(bundle.model)}
    last = {"single": "Softmax", "multi": "Sigmoid"}[run.outcome.task]
    found = no_gpu.placements(graphs, tmp_path, environment, OPTIONS)
    for precision, placement in found.items():
        assert placement.refused == "", precision
        assert placement.nodes.keys() == {CUDA}, precision
        assert placement.nodes[CUDA] >= LAYERS | {last}, precision


def test_int8_is_not_for_cuda(
    single_bundle: Bundle, tmp_path: Path, environment: dict[str, str]
) -> None:
    """It has no kernel for the biases, int32, and computes the rest in float32."""
    images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
    graph = quantized(single_bundle.model, "images", images)
    placement = no_gpu.placements({"int8": graph}, tmp_path, environment, OPTIONS)["int8"]
    assert "fallback to CPU EP has been explicitly disabled" in placement.refused
    assert placement.nodes[CPU] == {"DequantizeLinear"}
    assert placement.nodes[CUDA] >= LAYERS


def test_a_node_that_runs_on_the_cpu_would_be_seen(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    """Without a CUDA kernel, or computing shapes, which ONNX Runtime leaves to the CPU."""
    texts = {"det": WITHOUT_KERNEL, "shapes": OF_SHAPES}
    models = {k: onnx.parser.parse_model(text).SerializeToString() for k, text in texts.items()}
    found = no_gpu.placements(models, tmp_path, environment, OPTIONS)
    assert found["det"].nodes == {CPU: {"Det"}}
    assert found["shapes"].nodes[CPU] == {"Gather", "Concat"}
    for placement in found.values():
        assert "fallback to CPU EP has been explicitly disabled" in placement.refused


@pytest.mark.parametrize("name", [name for name, one in TRIALS.items() if one.provider == CUDA])
def test_the_trials_of_scripts_gpu_run_on_cuda_alone(
    single_bundle: Bundle, tmp_path: Path, environment: dict[str, str], name: str
) -> None:
    """With an option that this ONNX Runtime does not have, no session would open."""
    options = options_of(small("cuda", tmp_path), TRIALS[name])
    models = {"fp32": single_bundle.model}
    placement = no_gpu.placements(models, tmp_path, environment, options)["fp32"]
    assert (placement.refused, set(placement.nodes)) == ("", {CUDA})
