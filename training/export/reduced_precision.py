"""Other precisions of an exported network: fp16 for GPUs, int8 for CPUs."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

_BATCH = 4  # as fast as 16, with a quarter of its activations in memory
_HALVED = ("Conv", "Relu", "MaxPool", "Add", "ReduceMean", "Gemm", "Unsqueeze")
_HALF, _FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT
_QUANTIZED = ["Conv", "Add", "MaxPool", "Relu"]  # the head, pixel normalization and maps stay fp32


def halved(model: bytes) -> bytes:
    """The fp32 network with the ResNet in float16, its weights rounded once; pixels, logits, scores
    and maps stay float32.
    """
    half = onnx.load_from_string(model)
    graph = half.graph
    kinds = {tensor.name: tensor.type.tensor_type.elem_type for tensor in graph.input}
    used = {name for node in graph.node if node.op_type in _HALVED for name in node.input}
    for weights in graph.initializer:
        if weights.name in used and weights.data_type == _FLOAT:
            rounded = numpy_helper.to_array(weights).astype(np.float16)
            weights.CopyFrom(numpy_helper.from_array(rounded, weights.name))
        kinds[weights.name] = weights.data_type
    whole = {tensor.name for tensor in graph.output}
    nodes: list[onnx.NodeProto] = []

    def cast(name: str, new: str, kind: int) -> None:
        if new not in kinds:
            nodes.append(helper.make_node("Cast", [name], [new], f"cast_to_{new}", to=kind))
            kinds[new] = kind

    for node in graph.node:
        wanted = _HALF if node.op_type in _HALVED else _FLOAT
        for place, name in enumerate(node.input):
            if kinds[name] in {_HALF, _FLOAT} - {wanted}:
                node.input[place] = f"{name}_in_{'half' if wanted == _HALF else 'float'}"
                cast(name, node.input[place], wanted)
        nodes.append(node)
        for place, name in enumerate(node.output):
            if wanted == _HALF and name in whole:
                node.output[place] = f"{name}_in_half"
                cast(node.output[place], name, _FLOAT)
            kinds[node.output[place]] = wanted
    del graph.node[:]
    graph.node.extend(nodes)
    for tensor in graph.value_info:
        if kinds[tensor.name] == _HALF:
            tensor.type.tensor_type.elem_type = _HALF
    return bytes(half.SerializeToString())


def quantized(model: bytes, images_name: str, images: NDArray[np.uint8]) -> bytes:
    """The fp32 network in int8: static, activations uint8, weights int8 per channel.

    images: training images uint8 `[N, S, S, 3]`, which give the ranges of the activations.
    """
    with tempfile.TemporaryDirectory() as folder:
        prepared, result = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        graph = onnx.load_from_string(model)
        quant_pre_process(graph, prepared)
        quantize_static(
            prepared,
            result,
            _Images(images_name, images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_QUANTIZED,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        finished = onnx.load(result)
    _widen(finished.graph, images.shape[1])
    used = {node.domain for node in finished.graph.node}
    imports = [entry for entry in finished.opset_import if entry.domain in used]
    del finished.opset_import[:]  # the optimizer declares every domain it knows
    finished.opset_import.extend(imports)
    return bytes(finished.SerializeToString())


def _widen(graph: onnx.GraphProto, size_px: int) -> None:
    """Expand the pixels' mean and standard deviation `[1, 3, 1, 1]` to the size of the images.

    ONNX Runtime runs int8 networks channels-last, where three values repeated along the last axis
    cost a tenth of a ResNet-50's time.
    """
    for constant in graph.initializer:
        if list(constant.dims) == [1, 3, 1, 1]:
            wide = np.broadcast_to(numpy_helper.to_array(constant), (1, 3, size_px, size_px))
            constant.CopyFrom(numpy_helper.from_array(wide.copy(), constant.name))


class _Images(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, name: str, images: NDArray[np.uint8]) -> None:
        self._batches: Iterator[dict[str, NDArray[np.uint8]]] = iter(
            [{name: images[i : i + _BATCH]} for i in range(0, len(images), _BATCH)]
        )

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        return next(self._batches, None)
