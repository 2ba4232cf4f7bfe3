"""Tiny real bundles for tests, made without torch: the mean colour of an image decides."""

import io
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from models import golden
from models.bundle import hashes
from models.manifest import (
    GOLDEN_SCORES_FILE,
    MODEL_FILE,
    Baseline,
    Gate,
    Manifest,
    Metric,
    Preprocess,
    Provenance,
    Release,
    Task,
    Tensors,
    Variant,
)
from models.store import Store

SIZE_PX = 16
LABELS = ("red", "green", "blue")
OPSET = 18
# A label's logit is how far its channel is above the other two; a pure colour is certain.
WEIGHTS = np.array([[8, -4, -4], [-4, 8, -4], [-4, -4, 8]], np.float32)
TRAINING_IMAGES_FILE = "training-images.txt"
INT8_METRICS = {"accuracy": Metric(value=0.8, low=0.7, high=0.9)}  # fp32 has none of its own
PROVENANCE = Provenance(
    created="2025-01-01T00:00:00Z",
    git_commit=None,
    recipe={},
    data_fingerprint="0" * 64,
    weights="none",
    weights_sha256=None,
    weights_licence="none",
    libraries={},
    processor="none",
)


def picture(colour: tuple[int, int, int] = (200, 30, 30), size_px: int = 48) -> bytes:
    """A JPEG of one colour with a darker corner."""
    image = Image.new("RGB", (size_px, size_px), colour)
    image.paste((10, 20, 30), (0, 0, size_px // 4, size_px // 4))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _through_a_root() -> list[onnx.NodeProto]:
    """again = sqrt(means - dark)^2 + dark: the means, but NaN below `dark`."""
    return [
        helper.make_node("Sub", ["means", "dark"], ["above"]),
        helper.make_node("Sqrt", ["above"], ["root"]),
        helper.make_node("Mul", ["root", "root"], ["square"]),
        helper.make_node("Add", ["square", "dark"], ["again"]),
    ]


def _slowly(times: int) -> list[onnx.NodeProto]:
    """logits = linear + 0, after averaging all pixels so many times, which no optimizer skips."""
    pixels = SIZE_PX * SIZE_PX * 3
    equal = helper.make_tensor("equal", TensorProto.FLOAT, [1], [1 / pixels])
    rows = [f"rows{count}" for count in range(times + 1)]
    return [
        helper.make_node("ConstantOfShape", ["square"], ["averaging"], value=equal),
        helper.make_node("Flatten", ["shares"], rows[:1]),
        *(helper.make_node("MatMul", [row, "averaging"], [to]) for row, to in pairwise(rows)),
        helper.make_node("ReduceMean", [rows[-1], "last"], ["average"], keepdims=1),
        helper.make_node("Mul", ["average", "zero"], ["nothing"]),
        helper.make_node("Add", ["linear", "nothing"], ["logits"]),
    ]


def _constants_of_slowly() -> list[onnx.TensorProto]:
    square = np.array([SIZE_PX * SIZE_PX * 3] * 2, np.int64)
    values = {"square": square, "last": np.array([1]), "zero": np.array(0, np.float32)}
    return [numpy_helper.from_array(value, name) for name, value in values.items()]


def reference_scores(
    images: NDArray[np.uint8], task: Task, weights: NDArray[np.float32] = WEIGHTS
) -> NDArray[np.float32]:
    """The expected scores in plain NumPy: uint8 `[N, S, S, 3]` -> float32 `[N, 3]`."""
    logits = (images.astype(np.float64) / 255).mean(axis=(1, 2)) @ weights
    if task == "multi":
        scores = 1 / (1 + np.exp(-logits))
    else:
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores = powers / powers.sum(axis=1, keepdims=True)
    return np.asarray(scores, np.float32)


def network(
    task: Task,
    weights: NDArray[np.float32] = WEIGHTS,
    nan_for_black: bool = False,
    slow: int = 0,
) -> bytes:
    """The ONNX graph: cast, scale, mean of each channel, one linear layer, softmax or sigmoid.

    nan_for_black: the same scores, but NaN for an image with a channel that is nearly black.
    slow: the same scores, after this many times some ten times the work.
    """
    last = (
        helper.make_node("Softmax", ["logits"], ["scores"], axis=1)
        if task == "single"
        else helper.make_node("Sigmoid", ["logits"], ["scores"])
    )
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Div", ["floats", "white"], ["shares"]),
            helper.make_node("ReduceMean", ["shares", "axes"], ["means"], keepdims=0),
            *(_through_a_root() if nan_for_black else ()),
            helper.make_node(
                "MatMul",
                ["again" if nan_for_black else "means", "weights"],
                ["linear" if slow else "logits"],
            ),
            *(_slowly(slow) if slow else ()),
            last,
        ],
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIZE_PX, SIZE_PX, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", len(LABELS)])],
        [
            numpy_helper.from_array(np.array(255, np.float32), "white"),
            numpy_helper.from_array(np.array([1, 2], np.int64), "axes"),
            numpy_helper.from_array(weights, "weights"),
            *(
                [numpy_helper.from_array(np.array(0.02, np.float32), "dark")]
                if nan_for_black
                else []
            ),
            *(_constants_of_slowly() if slow else ()),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


def content(
    name: str,
    version: int,
    task: Task,
    model: bytes | None = None,
    *,
    int8: bytes | None = None,
    weights: NDArray[np.float32] = WEIGHTS,
    replaced: int | None = None,
) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest and the files of a tiny bundle.

    `model` replaces its network, `weights` the network's weights; `int8` is a variant; `replaced`
    is the version that its release replaced.
    """
    preprocess = Preprocess(image_size_px=SIZE_PX, crop_fraction=0.9)
    files = golden.forms([picture((200, 30, 30)), picture((20, 180, 60)), picture((30, 60, 220))])
    scores = reference_scores(golden.inputs(files, preprocess), task, weights)
    files[GOLDEN_SCORES_FILE] = golden.scores_file(list(files), scores)
    files[MODEL_FILE] = network(task, weights) if model is None else model
    variants = [Variant(file=MODEL_FILE, precision="fp32", gate=_gate(1e-4))]
    if int8 is not None:
        files["model.int8.onnx"] = int8
        variants.append(
            Variant(file="model.int8.onnx", precision="int8", gate=_gate(0.25, INT8_METRICS))
        )
    files[TRAINING_IMAGES_FILE] = b""
    manifest = Manifest(
        name=name,
        version=version,
        task=task,
        labels=LABELS,
        thresholds=(0.5, 0.5, 0.5) if task == "multi" else None,
        temperature=1,
        preprocess=preprocess,
        tensors=Tensors(maps=None),
        opset=OPSET,
        variants=tuple(variants),
        metrics={"accuracy": Metric(value=0.9, low=0.8, high=0.95)},
        baseline=Baseline(
            label_share=(0.4, 0.3, 0.3), confidence_edges=(0.5, 1.0), confidence_counts=(1, 2)
        ),
        training_images=TRAINING_IMAGES_FILE,
        provenance=PROVENANCE,
        release=None if replaced is None else _release(replaced),
        files=hashes(files),
    )
    return manifest, files


def add(
    store: Path,
    name: str,
    task: Task,
    model: bytes | None = None,
    *,
    int8: bytes | None = None,
    weights: NDArray[np.float32] = WEIGHTS,
    replaced: int | None = None,
) -> Path:
    """Write the next version of a tiny bundle into the store and return its folder."""
    return Store(store).add(
        name,
        lambda version: content(
            name, version, task, model, int8=int8, weights=weights, replaced=replaced
        ),
    )


def _release(replaced: int) -> Release:
    return Release(
        verdict="released",
        replaced=replaced,
        images=100,
        margin=0.01,
        difference=None,
        worse_labels=(),
        allowed_labels=(),
        forced=False,
    )


def _gate(tolerance: float, own_metrics: dict[str, Metric] | None = None) -> Gate:
    none = Metric(value=0, low=0, high=0)
    return Gate(
        tolerance=tolerance,
        max_difference=0,
        flips=0,
        images=0,
        loss=none,
        separation_loss=none,
        metrics={},
        own_metrics=own_metrics,
    )
