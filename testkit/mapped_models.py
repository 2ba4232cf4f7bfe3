"""Tiny real bundles whose network also tells where it looked: the mean colour of each part decides.

A map has 4 x 4 positions, each with the logits of its own part of the image; their mean over all
positions is the image's logits, as in an exported network.
"""

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from models.bundle import hashes
from models.manifest import Manifest, Task, Tensors
from models.store import Store
from testkit import tiny_models

POSITIONS = 4
_PART_PX = tiny_models.SIZE_PX // POSITIONS


def reference_maps(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The expected maps in plain NumPy: uint8 `[N, S, S, 3]` -> float32 `[N, 3, 4, 4]`."""
    parts = images.reshape(len(images), POSITIONS, _PART_PX, POSITIONS, _PART_PX, 3) / 255
    logits = parts.mean(axis=(2, 4)) @ tiny_models.WEIGHTS
    return np.asarray(logits.transpose(0, 3, 1, 2), np.float32)


def network(task: Task) -> bytes:
    """The tiny network with the output `maps`."""
    model = onnx.load_model_from_string(tiny_models.network(task))
    model.graph.node.extend(
        [
            helper.make_node("Transpose", ["shares"], ["planes"], perm=[0, 3, 1, 2]),
            helper.make_node(
                "AveragePool",
                ["planes"],
                ["parts"],
                kernel_shape=[_PART_PX, _PART_PX],
                strides=[_PART_PX, _PART_PX],
            ),
            helper.make_node("Transpose", ["parts"], ["colours"], perm=[0, 2, 3, 1]),
            helper.make_node("MatMul", ["colours", "weights"], ["own_logits"]),
            helper.make_node("Transpose", ["own_logits"], ["maps"], perm=[0, 3, 1, 2]),
        ]
    )
    shape: list[str | int | None] = ["N", len(tiny_models.LABELS), POSITIONS, POSITIONS]
    model.graph.output.append(helper.make_tensor_value_info("maps", TensorProto.FLOAT, shape))
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


def content(
    name: str, version: int, task: Task, thresholds: tuple[float, ...] = (0.5, 0.5, 0.5)
) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest and the files of a bundle; `thresholds`: of a multi-label one."""
    manifest, files = tiny_models.content(name, version, task, network(task))
    changes: dict[str, object] = {"tensors": Tensors(maps="maps"), "files": hashes(files)}
    if task == "multi":
        changes["thresholds"] = thresholds
    return manifest.model_copy(update=changes), files


def add(
    store: Path, name: str, task: Task, thresholds: tuple[float, ...] = (0.5, 0.5, 0.5)
) -> Path:
    """Write the next version of the bundle into the store and return its folder."""
    return Store(store).add(name, lambda version: content(name, version, task, thresholds))
