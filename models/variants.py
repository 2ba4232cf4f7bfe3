"""Which variants of a network may serve on which device, and whose metrics are known for each.

`export` announces what the service will choose from, so the list is here, where both can read it.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from models.manifest import Gate, Manifest, Metric, Precision, Variant

Device = Literal["cpu", "cuda"]

NAMES: dict[Device, str] = {"cpu": "a CPU", "cuda": "CUDA"}
# What ONNX Runtime computes in, the most exact first. It converts the other one to fp32 and back at
# every layer: never faster, and a ResNet-50 in fp16 takes 380 MB on a CPU.
COMPUTED: dict[Device, tuple[Precision, ...]] = {"cpu": ("fp32", "int8"), "cuda": ("fp32", "fp16")}


def candidates(variants: Sequence[Variant], device: Device) -> list[Variant]:
    """Those of which precision `auto` serves the fastest on the device, the most exact first."""
    found = {variant.precision: variant for variant in variants}
    return [found[precision] for precision in COMPUTED[device] if precision in found]


def served_on(variant: Variant) -> str:
    """Where `auto` may serve it: `a CPU`, `CUDA`, `a CPU and CUDA`."""
    places = [name for device, name in NAMES.items() if variant.precision in COMPUTED[device]]
    return " and ".join(places)


def differing(gate: Gate) -> str:
    """How many decisions differ from the trained network's: `2 of 1,440`, or `2` if not known."""
    return f"{gate.flips:,}" + ("" if gate.decisions is None else f" of {gate.decisions:,}")


def metrics_of(manifest: Manifest, variant: Variant) -> tuple[Precision, Mapping[str, Metric]]:
    """The variant's own metrics, and the precision that they are of.

    A bundle from before they were kept has only those of the trained network, which is in fp32.
    """
    if variant.gate.own_metrics is None:
        return "fp32", manifest.metrics
    return variant.precision, variant.gate.own_metrics
