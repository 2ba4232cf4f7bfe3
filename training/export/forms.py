"""The forms of a network, fp32 and the reduced precisions, each as an ONNX file that passed its
gate.

fp32 must pass. By default every other form is tried too, and one that cannot be made or fails its
gate is left out, with the reason; one that was asked for by name must pass.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.errors import LabradorError
from models.manifest import MODEL_FILE, Precision, Variant
from models.outputs import Outputs
from models.wording import on_one_line
from training.export import reduced_precision
from training.export.gate import Passed
from training.export.onnx_export import TENSORS

REDUCED: tuple[Precision, ...] = ("fp16", "int8")


@dataclass(frozen=True)
class Forms:
    """The forms that passed, fp32 first, with their files, and what each gives for the validation
    images; and why the others did not.
    """

    variants: tuple[Variant, ...]
    files: dict[str, bytes]
    outputs: dict[Precision, Outputs]
    left_out: dict[Precision, str]


def make(
    model: bytes,
    wanted: Sequence[Precision] | None,
    training_images: Callable[[], NDArray[np.uint8]],
    check: Callable[[bytes, Precision], Passed],
) -> Forms:
    """The forms of the fp32 network `model` that pass `check`, which raises GateError otherwise.

    wanted: those that must be made, beside fp32; None: those that can be. training_images: for
    int8, uint8 `[N, S, S, 3]`, called only if it is made; raises DataError if they are gone.
    """
    passed = check(model, "fp32")
    variants = [Variant(file=MODEL_FILE, precision="fp32", gate=passed.gate)]
    files = {MODEL_FILE: model}
    outputs: dict[Precision, Outputs] = {"fp32": passed.outputs}
    left_out: dict[Precision, str] = {}
    for precision in REDUCED if wanted is None else dict.fromkeys(wanted):
        if precision == "fp32":
            continue
        try:
            form = _reduced(model, precision, training_images)
            passed = check(form, precision)
        except Exception as error:  # the quantizer and ONNX Runtime raise errors of any kind
            if wanted is not None:
                raise
            left_out[precision] = _reason(error, precision)
            continue
        file = f"model.{precision}.onnx"
        variants.append(Variant(file=file, precision=precision, gate=passed.gate))
        files[file] = form
        outputs[precision] = passed.outputs
    return Forms(tuple(variants), files, outputs, left_out)


def _reduced(
    model: bytes, precision: Precision, training_images: Callable[[], NDArray[np.uint8]]
) -> bytes:
    if precision == "fp16":
        return reduced_precision.halved(model)
    return reduced_precision.quantized(model, TENSORS.images, training_images())


def _reason(error: Exception, precision: Precision) -> str:
    """Why a form is left out, on one line."""
    if isinstance(error, LabradorError):
        return str(error).removeprefix(f"{precision}: ")
    text = on_one_line(error)
    return f"it cannot be made: {type(error).__name__}: {text:.300}"
