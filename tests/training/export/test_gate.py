from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from models import golden
from models.bundle import Bundle, hashes
from models.errors import GateError
from models.manifest import Gate, Manifest
from training.data import decoding
from training.export import gate
from training.export.gate import Reference
from training.network.resnet import Served
from training.run_folder import Run


def served(run: Run) -> Served:
    outcome = run.outcome
    return Served(run.network(), outcome.task, outcome.temperature, run.novelty()).eval()


def reference(run: Run) -> Reference:
    outcome, records = run.outcome, run.split.valid
    files = [Path(outcome.root) / record.file for record in records]
    images = decoding.served(files, outcome.preprocess).numpy()
    trained = gate.reference_outputs(served(run), images)
    return Reference(
        images,
        records,
        trained.scores,
        outcome.labels,
        outcome.thresholds,
        outcome.temperature,
        range(len(records)),
        trained.novelty,
    )


def checked(bundle: Bundle, run: Run) -> Gate:
    return gate.check(bundle.model, "fp32", bundle.manifest, bundle.files, reference(run)).gate


def refused(bundle: Bundle, run: Run) -> str:
    with pytest.raises(GateError) as caught:
        checked(bundle, run)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def tampered(bundle: Bundle, change: Callable[[onnx.ModelProto], None]) -> Bundle:
    """The bundle with a changed graph, and a manifest that matches it."""
    graph = onnx.load_from_string(bundle.model)
    change(graph)
    files = {**bundle.files, "model.onnx": graph.SerializeToString()}
    return replace(bundle, files=files, manifest=changed(bundle.manifest, files=hashes(files)))


def changed(manifest: Manifest, **changes: Any) -> Manifest:
    return Manifest.model_validate(manifest.model_dump() | changes)


def rewritten(bundle: Bundle, **changes: Callable[[Any], Any]) -> Bundle:
    """The bundle with changed constants in its graph, selected by the end of their names."""

    def change(graph: onnx.ModelProto) -> None:
        for ending, values in changes.items():
            (tensor,) = [t for t in graph.graph.initializer if t.name.endswith(ending)]
            changed = values(numpy_helper.to_array(tensor))
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(changed), tensor.name))

    return tampered(bundle, change)


def test_an_honest_export_passes_with_what_was_measured(bundle: Bundle, run: Run) -> None:
    found = checked(bundle, run)
    kept = bundle.manifest.variants[0].gate
    assert found.metrics == pytest.approx(kept.metrics)
    assert found.max_difference == pytest.approx(kept.max_difference, abs=1e-6)
    assert found.tolerance == golden.TOLERANCE_CPU
    assert 0 <= found.max_difference <= 1e-4
    assert found.flips == 0
    recorded = {name: metric.value for name, metric in run.outcome.metrics.items()}
    calibration = {"rms_calibration_error", "rms_calibration_error_uncalibrated"}
    assert found.metrics.keys() == recorded.keys() - calibration
    ranking = "error" if run.outcome.task == "single" else "accuracy_all_negative"
    assert found.metrics[ranking] == pytest.approx(recorded[ranking])


def test_the_own_metrics_of_fp32_are_those_of_the_run(bundle: Bundle, run: Run) -> None:
    """Also in a bundle, whose gate sees the images in another order."""
    for kept in (checked(bundle, run), bundle.manifest.variants[0].gate):
        assert kept.own_metrics is not None
        assert kept.own_metrics.keys() == run.outcome.metrics.keys()
        for name, metric in run.outcome.metrics.items():
            own = kept.own_metrics[name].model_dump()
            assert own == pytest.approx(metric.model_dump(), abs=1e-3), name


def test_the_reference_is_the_network_in_batches(run: Run) -> None:
    images = np.concatenate([reference(run).images] * 4)
    assert len(images) > 64
    network = served(run)
    with torch.inference_mode():
        scores, _, novelty = network(torch.from_numpy(images))
    found = gate.reference_outputs(network, images)
    np.testing.assert_allclose(found.scores, scores.numpy(), atol=1e-5)
    assert found.novelty is not None
    np.testing.assert_allclose(found.novelty, novelty.numpy(), rtol=1e-4)


def test_a_graph_that_is_only_read_and_written_passes(bundle: Bundle, run: Run) -> None:
    """So the tests below are refused for their changes, not for rewriting the graph."""
    assert checked(rewritten(bundle, mean=lambda mean: mean), run).flips == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"mean": lambda mean: mean + 1},
        {"deviation": lambda deviation: deviation * 1.01},
        {"mean": lambda mean: mean[:, ::-1]},
        {"fc.weight": lambda rows: rows[[1, 0, 2]]},
        {"fc.bias": lambda bias: bias + np.array([0.01, 0, 0], np.float32)},
        {"resnet.conv1.weight_bias": lambda bias: bias * np.nan},
    ],
    ids=["mean", "deviation", "channels", "rows", "bias", "nan"],
)
def test_another_network_in_the_graph_is_refused(
    bundle: Bundle, run: Run, changes: dict[str, Callable[[Any], Any]]
) -> None:
    assert "scores differ" in refused(rewritten(bundle, **changes), run)


@pytest.mark.parametrize(
    "changes",
    [
        {"novelty.centre": lambda centre: centre + np.float32(0.01)},
        {"novelty.scale": lambda scale: scale * np.float32(1.01)},
        {"novelty.directions": lambda directions: directions[::-1]},
        {"novelty.towards": lambda towards: -towards},
        {"novelty.offsets": lambda offsets: offsets + np.float32(0.1)},
        {"novelty.scale": lambda scale: scale * np.float32(np.nan)},
    ],
    ids=["centre", "scale", "directions", "towards", "offsets", "nan"],
)
def test_another_novelty_in_the_graph_is_refused(
    single_bundle: Bundle, single_run: Run, changes: dict[str, Callable[[Any], Any]]
) -> None:
    assert "fp32: novelty differs by" in refused(rewritten(single_bundle, **changes), single_run)


def test_the_gate_says_how_far_novelty_is_off(bundle: Bundle, run: Run) -> None:
    found = checked(bundle, run).novelty
    assert found is not None
    assert 0 < found.max_difference <= found.tolerance == golden.NOVELTY_TOLERANCE_CPU
    assert found.changed == 0
    assert bundle.manifest.variants[0].gate.novelty is not None


def test_a_form_with_other_unknown_images_passes_with_their_number(
    single_bundle: Bundle, single_run: Run
) -> None:
    """Of 24 images one is unknown by the others; here the trained network has another one."""
    known = reference(single_run)
    assert known.novelty is not None
    novelty = known.novelty.copy()
    first, second = np.argsort(-novelty)[:2]
    novelty[[first, second]] = novelty[[second, first]]
    tolerant = {**gate.TOLERANCES, "int8": replace(gate.TOLERANCES["int8"], novelty=100.0)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate, "TOLERANCES", tolerant)
        found = gate.check(
            single_bundle.model,
            "int8",
            single_bundle.manifest,
            single_bundle.files,
            replace(known, novelty=novelty),
        )
    assert found.gate.novelty is not None and found.gate.novelty.changed == 2


def test_another_temperature_is_refused(bundle: Bundle, run: Run) -> None:
    """The exported network has another temperature than the run's."""
    outcome = run.outcome
    other = run.outcome.model_copy(update={"temperature": outcome.temperature * 1.05})
    assert "scores differ" in refused(bundle, replace(run, outcome=other))


def test_labels_in_another_order_are_refused(bundle: Bundle, run: Run) -> None:
    first, second, third = bundle.manifest.labels
    manifest = changed(bundle.manifest, labels=(second, first, third))
    message = refused(replace(bundle, manifest=manifest), run)
    assert message.endswith(
        f"the labels are {second}, {first}, {third}, the trained network's"
        f" {first}, {second}, {third}"
    )


def test_other_thresholds_are_refused(multi_bundle: Bundle, multi_run: Run) -> None:
    scores = reference(multi_run).scores
    for thresholds in (np.median(scores, 0), np.full(3, 0.99)):
        manifest = changed(multi_bundle.manifest, thresholds=tuple(thresholds.tolist()))
        message = refused(replace(multi_bundle, manifest=manifest), multi_run)
        assert "fp32: the thresholds are " in message


@pytest.mark.parametrize("crop", [0.8, 1.0])
def test_another_crop_in_the_manifest_is_refused(bundle: Bundle, run: Run, crop: float) -> None:
    assert bundle.manifest.preprocess.crop_fraction != crop
    how = {"image_size_px": 32, "crop_fraction": crop}
    manifest = changed(bundle.manifest, preprocess=how)
    assert "scores differ" in refused(replace(bundle, manifest=manifest), run)


@pytest.mark.parametrize("name", ["golden/baseline.jpg", "golden/scores.json"])
def test_another_golden_file_is_refused(bundle: Bundle, run: Run, name: str) -> None:
    content = bundle.files["golden/cmyk.jpg"]
    if name.endswith("json"):
        content = bundle.files[name].replace(b"0.", b"0.0", 1)
    files = {**bundle.files, name: content}
    assert "scores differ" in refused(replace(bundle, files=files), run)


def test_foreign_operators_are_refused(single_bundle: Bundle, single_run: Run) -> None:
    def foreign(graph: onnx.ModelProto) -> None:
        graph.opset_import.append(onnx.helper.make_opsetid("org.example", 1))

    message = refused(tampered(single_bundle, foreign), single_run)
    assert message == "the graph uses operators from org.example"


def test_weights_outside_the_file_are_refused(single_bundle: Bundle, single_run: Run) -> None:
    def outside(graph: onnx.ModelProto) -> None:
        graph.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL

    message = refused(tampered(single_bundle, outside), single_run)
    assert message == "the graph keeps weights outside its file"
