"""Which variant of a network serves on which device, and whose metrics are known for it.

`export` announces what the service will choose, so the choice is here, where both can read it.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from models.manifest import Gate, Manifest, Metric, Precision, Variant

Device = Literal["cpu", "cuda"]

NAMES: dict[Device, str] = {"cpu": "a CPU", "cuda": "CUDA"}
FASTEST: dict[Device, Precision] = {"cpu": "int8", "cuda": "fp16"}


def automatic(variants: Sequence[Variant], device: Device) -> list[Variant]:
    """What precision `auto` tries on the device, in order; each passed its gate at export."""
    found = {variant.precision: variant for variant in variants}
    wanted = (FASTEST[device], "fp32")
    return [found[precision] for precision in wanted if precision in found]


def served_on(variants: Sequence[Variant], variant: Variant) -> str:
    """Where `auto` serves this one: `a CPU`, `CUDA`, `a CPU and CUDA`; empty: nowhere."""
    places = [name for device, name in NAMES.items() if automatic(variants, device)[0] == variant]
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
