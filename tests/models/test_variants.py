import pytest

from models.manifest import Gate, Manifest, Metric, Precision, Variant
from models.variants import Device, candidates, differing, metrics_of, served_on
from testkit.bundles import manifest, values


def gate(**changes: object) -> Gate:
    return Gate.model_validate(values()["variants"][0]["gate"] | changes)


def variants(*precisions: Precision) -> list[Variant]:
    return [Variant(file=f"{name}.onnx", precision=name, gate=gate()) for name in precisions]


@pytest.mark.parametrize(
    ("device", "found", "timed"),
    [
        ("cpu", ("fp32", "fp16", "int8"), ["fp32", "int8"]),
        ("cuda", ("fp32", "fp16", "int8"), ["fp32", "fp16"]),
        ("cpu", ("fp32", "fp16"), ["fp32"]),
        ("cuda", ("fp32", "int8"), ["fp32"]),
    ],
)
def test_the_candidates_are_what_the_device_computes_in_with_fp32_first(
    device: Device, found: tuple[Precision, ...], timed: list[Precision]
) -> None:
    assert [variant.precision for variant in candidates(variants(*found), device)] == timed


def test_each_variant_may_serve_where_it_is_a_candidate() -> None:
    every = variants("fp32", "fp16", "int8")
    assert [served_on(one) for one in every] == ["a CPU and CUDA", "CUDA", "a CPU"]


def test_decisions_that_differ_are_told_with_how_many_were_compared() -> None:
    assert differing(gate(flips=2, decisions=1440)) == "2 of 1,440"
    assert differing(gate(flips=1200, decisions=None)) == "1,200"


def test_the_metrics_are_the_variant_s_own_if_it_has_them() -> None:
    own = {"error": Metric(value=0.3, low=0.2, high=0.4)}
    whole: Manifest = manifest()
    int8 = Variant(file="int8.onnx", precision="int8", gate=gate(own_metrics=own))
    assert metrics_of(whole, int8) == ("int8", own)
    older = Variant(file="int8.onnx", precision="int8", gate=gate(own_metrics=None))
    assert metrics_of(whole, older) == ("fp32", whole.metrics)
