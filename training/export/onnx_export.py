"""The network as an ONNX file: its tensors, its opset, and no trace of this machine."""

import warnings

import onnx
import torch

from models.manifest import Tensors
from training.network.resnet import Served

OPSET = 20
TENSORS = Tensors()


def tensors_of(network: Served) -> Tensors:
    """The names of its graph's tensors."""
    return TENSORS if network.novelty is None else TENSORS.model_copy(update={"novelty": "novelty"})


def onnx_bytes(network: Served, image_size_px: int) -> bytes:
    """The network as one ONNX file: images uint8 `[N, S, S, 3]`, any N -> scores, maps, novelty."""
    tensors = tensors_of(network)
    outputs = (tensors.scores, tensors.maps, tensors.novelty)
    example = torch.zeros(2, image_size_px, image_size_px, 3, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            external_data=False,
            opset_version=OPSET,
            input_names=[tensors.images],
            output_names=[name for name in outputs if name is not None],
            dynamic_shapes={tensors.images: {0: torch.export.Dim("batch", min=1)}},
            verbose=False,
        )
    model: onnx.ModelProto = program.model_proto  # type: ignore[union-attr]
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces with paths on this machine
    return bytes(model.SerializeToString())
