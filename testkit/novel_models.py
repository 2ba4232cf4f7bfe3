"""Tiny real bundles whose network also measures novelty: how far the mean colour is from grey.

The held-out images are greys and pale colours, so a picture of one pure colour is unknown.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models import conformal, golden
from models.bundle import hashes
from models.conformal import CONFORMAL_FILE, HeldOut
from models.manifest import Conformal, Manifest, NoveltyGate, Precision, Task, Tensors
from models.outputs import Outputs
from models.store import Store
from testkit import tiny_models

HELD_OUT = 199
ALPHA = 0.05
TENSORS = Tensors(maps=None, novelty="novelty")


def reference_novelty(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The expected novelty in plain NumPy: uint8 `[N, S, S, 3]` -> float32 `[N]`."""
    means = (images.astype(np.float64) / 255).mean(axis=(1, 2))
    return np.asarray(((means - 0.5) ** 2).sum(1), np.float32)


def held_out(task: Task) -> HeldOut:
    """The values of `HELD_OUT` images, evenly spread: novelty up to 0.05, mass up to 0.995."""
    shares = np.linspace(0, 1, HELD_OUT)
    mass = np.where(shares < 0.5, 0, shares * 0.995)
    return HeldOut((0.05 * shares).astype(np.float32), mass if task == "single" else None)


def network(task: Task, *, scale: float = 1, nan_for_black: bool = False) -> bytes:
    """The tiny network with the output `novelty`, `scale` times the reference.

    nan_for_black: its novelty, and not its scores, is NaN for a black image.
    """
    model = onnx.load_model_from_string(tiny_models.network(task))
    model.graph.node.extend(
        [
            helper.make_node("Sub", ["means", "grey"], ["away"]),
            helper.make_node("ReduceSumSquare", ["away", "last_axis"], ["squares"], keepdims=0),
            helper.make_node(
                "Mul", ["squares", "scale"], ["scaled" if nan_for_black else "novelty"]
            ),
            *(_plus_nan_for_black() if nan_for_black else ()),
        ]
    )
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(0.5, np.float32), "grey"),
            numpy_helper.from_array(np.array([1], np.int64), "last_axis"),
            numpy_helper.from_array(np.array(scale, np.float32), "scale"),
            *(
                [numpy_helper.from_array(np.array(0.02, np.float32), "dark")]
                if nan_for_black
                else []
            ),
        ]
    )
    model.graph.output.append(helper.make_tensor_value_info("novelty", TensorProto.FLOAT, ["N"]))
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


def _plus_nan_for_black() -> list[onnx.NodeProto]:
    """novelty = scaled + (root - root), where root is that of the sum of the means minus `dark`."""
    return [
        helper.make_node("ReduceSum", ["means", "last_axis"], ["light"], keepdims=0),
        helper.make_node("Sub", ["light", "dark"], ["above"]),
        helper.make_node("Sqrt", ["above"], ["root"]),
        helper.make_node("Sub", ["root", "root"], ["nothing"]),
        helper.make_node("Add", ["scaled", "nothing"], ["novelty"]),
    ]


def content(
    name: str,
    version: int,
    task: Task,
    *,
    int8: bool = False,
    alpha: float = ALPHA,
    scale: float = 1,
    nan_for_black: bool = False,
    known: HeldOut | None = None,
) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest and the files of a bundle; int8: a second form, which is the same network.

    scale, nan_for_black: of its network only, so another scale than 1 fails its golden images.
    known: its held-out images' values, None for those of `held_out`.
    """
    known = held_out(task) if known is None else known
    model = network(task, scale=scale, nan_for_black=nan_for_black)
    manifest, files = tiny_models.content(name, version, task, model, int8=model if int8 else None)
    golden_files = {n: data for n, data in files.items() if n.startswith("golden/")}
    del golden_files["golden/scores.json"]
    images = golden.inputs(golden_files, manifest.preprocess)
    expected = Outputs(tiny_models.reference_scores(images, task), reference_novelty(images))
    files |= golden.outputs_files(list(golden_files), expected)
    forms: dict[Precision, HeldOut] = {v.precision: known for v in manifest.variants}
    files[CONFORMAL_FILE] = conformal.file_of(forms)
    gate = NoveltyGate(tolerance=1e-3, max_difference=0, changed=0)
    variants = [
        variant.model_copy(update={"gate": variant.gate.model_copy(update={"novelty": gate})})
        for variant in manifest.variants
    ]
    assert known.novelty is not None
    promised = Conformal(file=CONFORMAL_FILE, images=len(known.novelty), alpha=alpha)
    changes = {"tensors": TENSORS, "conformal": promised, "variants": variants}
    values = {**manifest.model_dump(), **changes, "files": hashes(files)}
    return Manifest.model_validate(values), files


def add(store: Path, name: str, task: Task, **options: Any) -> Path:
    """Write the next version of the bundle into the store and return its folder.

    options: those of `content`.
    """
    return Store(store).add(name, lambda version: content(name, version, task, **options))
