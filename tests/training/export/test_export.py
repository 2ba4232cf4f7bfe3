import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx.utils
import pytest

from models import bundle as bundles
from models import conformal, golden
from models.bundle import Bundle
from models.errors import BundleError, DataError, GateError
from models.manifest import (
    GOLDEN_NOVELTY_FILE,
    GOLDEN_SCORES_FILE,
    Contract,
    Precision,
    Tensors,
)
from models.store import Store
from testkit import image_sets
from training import run_folder
from training.data import decoding
from training.data.targets import encode
from training.evaluation import onnx_session, promises
from training.export import export as module
from training.export import forms, gate, reduced_precision
from training.export.export import export
from training.export.gate import Passed
from training.network.resnet import Served
from training.run_folder import Run


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, single_bundle: Bundle) -> None:
    """The exporter takes seconds: reuse its export of the single-label run."""
    monkeypatch.setattr(module, "onnx_bytes", lambda network, size: single_bundle.model)


def left_in(store: Store) -> list[Path]:
    return sorted(store.root.rglob("*")) if store.root.exists() else []


def test_a_bundle_is_read_back_with_what_the_run_knows(bundle: Bundle, run: Run) -> None:
    manifest, outcome = bundle.manifest, run.outcome
    assert bundles.read(bundle.path).manifest == manifest
    assert (manifest.version, manifest.task) == (1, outcome.task)
    assert manifest.labels == outcome.labels
    assert manifest.thresholds == outcome.thresholds
    assert manifest.temperature == outcome.temperature
    assert manifest.preprocess == outcome.preprocess
    assert manifest.metrics == outcome.metrics
    assert manifest.baseline == outcome.baseline
    assert manifest.provenance == outcome.provenance
    assert [variant.file for variant in manifest.variants] == ["model.onnx"]
    hashes = bundle.files[manifest.training_images].decode().splitlines()
    assert hashes == sorted({record.sha256 for record in run.split.train})
    assert not set(hashes) & {record.sha256 for record in run.split.valid}


def test_the_first_version_of_each_name_is_released(store: Store) -> None:
    assert store.names() == ["colours", "stripes"]
    assert [store.released(name) for name in store.names()] == [1, 1]


def test_golden_files_are_validation_images_and_give_their_scores(bundle: Bundle, run: Run) -> None:
    forms = [name for name in bundle.files if name.startswith("golden/") and "json" not in name]
    assert len(forms) == 10
    answer, _ = onnx_session.answers(bundle.model, bundle.manifest.tensors)
    found = golden.check(bundle, answer, golden.TOLERANCE_CPU, golden.NOVELTY_TOLERANCE_CPU)
    assert found.flips == 0
    assert found.novelty_difference is not None
    assert {GOLDEN_SCORES_FILE, GOLDEN_NOVELTY_FILE} <= bundle.files.keys()


@pytest.mark.usefixtures("quick")
def test_a_second_export_is_version_two_and_not_released(
    single_run: Run, store: Store, tmp_path: Path
) -> None:
    own = Store(tmp_path)
    assert export(single_run, "colours", own) == tmp_path / "colours" / "1"
    assert export(single_run, "colours", own) == tmp_path / "colours" / "2"
    assert own.versions("colours") == [1, 2]
    assert own.released("colours") == 1
    assert bundles.read(own.path("colours:2")).manifest.version == 2


def test_exporting_a_run_again_gives_the_same_bundle(
    single_run: Run, single_bundle: Bundle, tmp_path: Path
) -> None:
    """Through the real exporter, a second time."""
    again = bundles.read(export(single_run, "colours", Store(tmp_path)))
    assert again.manifest.files == single_bundle.manifest.files


@pytest.mark.usefixtures("quick")
def test_an_invalid_name_is_refused(single_run: Run, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="'Pets!' is not a valid name"):
        export(single_run, "Pets!", Store(tmp_path))
    assert left_in(Store(tmp_path)) == []


def test_a_graph_with_other_scores_leaves_no_bundle(
    single_run: Run, single_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = onnx.load_from_string(single_bundle.model)
    (mean,) = [tensor for tensor in graph.graph.initializer if tensor.name.endswith("mean")]
    values = onnx.numpy_helper.to_array(mean) + np.float32(1)
    mean.CopyFrom(onnx.numpy_helper.from_array(values, mean.name))
    other = graph.SerializeToString()
    monkeypatch.setattr(module, "onnx_bytes", lambda network, size: other)
    with pytest.raises(GateError, match="scores differ"):
        export(single_run, "colours", Store(tmp_path / "store"))
    assert left_in(Store(tmp_path / "store")) in ([], [tmp_path / "store" / "colours"])
    assert Store(tmp_path / "store").names() == []


@pytest.mark.parametrize(
    "change",
    [
        {"labels": ("green", "blue", "red")},
        {"preprocess": {"image_size_px": 32, "crop_fraction": 0.5}},
    ],
    ids=["labels", "preprocess"],
)
@pytest.mark.usefixtures("quick")
def test_a_manifest_that_contradicts_the_graph_leaves_no_bundle(
    single_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    """As if export promised something other than what it exported."""
    monkeypatch.setattr(module, "Contract", lambda **fields: Contract(**(fields | change)))
    with pytest.raises(GateError):
        export(single_run, "colours", Store(tmp_path))
    assert Store(tmp_path).names() == []


@pytest.mark.usefixtures("quick")
def test_the_manifest_promises_what_the_gate_checked(
    single_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is promised that was not checked."""
    tensors = Tensors(maps=None)  # which the gate does not check
    checked: list[Any] = []
    check = gate.check

    def watched(model: bytes, precision: Precision, contract: Contract, *more: Any) -> Passed:
        checked.append(contract)
        return check(model, precision, contract, *more)

    monkeypatch.setattr(gate, "check", watched)
    monkeypatch.setattr(module, "Contract", lambda **f: Contract(**(f | {"tensors": tensors})))
    manifest = bundles.read(export(single_run, "colours", Store(tmp_path))).manifest
    (contract,) = checked
    assert manifest.tensors == tensors
    assert contract == Contract(**{name: getattr(manifest, name) for name in dict(contract)})


def test_the_bundle_promises_by_the_values_that_its_form_has_for_the_validation_images(
    bundle: Bundle, run: Run
) -> None:
    manifest, outcome = bundle.manifest, run.outcome
    assert manifest.conformal is not None
    assert (manifest.conformal.images, manifest.conformal.alpha) == (len(run.split.valid), 0.01)
    files = [Path(outcome.root) / record.file for record in run.split.valid]
    images = decoding.served(files, outcome.preprocess).numpy()
    outputs = onnx_session.answers(bundle.model, manifest.tensors)[0](images)
    expected = promises.held_out_by(outputs, encode(run.split.valid, outcome.labels), outcome.task)
    found = conformal.held_out(bundle, "fp32")
    assert found is not None and found.novelty is not None and expected.novelty is not None
    np.testing.assert_allclose(found.novelty, expected.novelty, rtol=1e-3)
    if outcome.task == "single":
        assert found.mass_before is not None and expected.mass_before is not None
        np.testing.assert_allclose(found.mass_before, expected.mass_before, atol=1e-4)


def test_a_run_from_before_is_exported_without_novelty(
    single_run: Run, single_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(network: Served, size_px: int) -> bytes:
        """What the exporter makes without novelty, which takes it seconds."""
        assert network.novelty is None
        whole = onnx.utils.Extractor(onnx.load_from_string(single_bundle.model))
        return bytes(whole.extract_model(["images"], ["scores", "maps"]).SerializeToString())

    monkeypatch.setattr(module, "onnx_bytes", cut)
    old = shutil.copytree(single_run.path, tmp_path / "run")
    (old / "novelty.safetensors").unlink()
    (old / "conformal.json").unlink()
    whole = bundles.read(export(run_folder.read(old), "colours", Store(tmp_path / "store")))
    manifest = whole.manifest
    assert manifest.tensors.novelty is None and manifest.conformal is None
    assert manifest.variants[0].gate.novelty is None
    assert not {"conformal.json", "golden/novelty.json"} & whole.files.keys()
    assert b"a low probability is the only sign of it" in whole.files["MODEL_CARD.md"]


class SeenError(Exception):
    """Ends an export once a test has seen enough."""


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("most", [256, 5])
def test_int8_is_calibrated_on_training_images(
    single_run: Run,
    single_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    most: int,
) -> None:
    """On at most so many, first by hash; the gate's own images would bias the gate."""
    given: list[Any] = []

    def watched(*arguments: Any) -> None:
        given.extend(arguments)
        raise SeenError

    monkeypatch.setattr(module, "_CALIBRATION_IMAGES", most)
    monkeypatch.setattr(reduced_precision, "quantized", watched)
    with pytest.raises(SeenError):
        export(single_run, "colours", Store(tmp_path), precisions=["int8"])
    trained_on = sorted(single_run.split.train, key=lambda record: record.sha256)
    files = [single_data / record.file for record in trained_on][:most]
    _, name, images = given
    assert (name, len(images)) == ("images", min(most, 24))
    assert np.array_equal(images, decoding.served(files, single_run.outcome.preprocess))


@pytest.fixture
def moved(single_data: Path, tmp_path: Path) -> Path:
    """A copy of the single-label run's images in another folder."""
    return shutil.copytree(single_data, tmp_path / "moved")


@pytest.mark.usefixtures("quick")
def test_images_that_moved_are_found_with_data(
    single_run: Run, moved: Path, tmp_path: Path
) -> None:
    gone = single_run.outcome.model_copy(update={"root": str(tmp_path / "gone")})
    run = replace(single_run, outcome=gone)
    assert export(run, "colours", Store(tmp_path / "store"), str(moved)).is_dir()
    with pytest.raises(DataError, match="gone/.* is missing or has changed since training"):
        export(run, "colours", Store(tmp_path / "store"))


@pytest.mark.parametrize("damage", ["changed", "missing"])
@pytest.mark.usefixtures("quick")
def test_validation_images_must_be_those_of_the_training(
    single_run: Run, moved: Path, tmp_path: Path, damage: str
) -> None:
    file = moved / single_run.split.valid[0].file
    if damage == "changed":
        file.write_bytes(image_sets.image(77))
    else:
        file.unlink()
    with pytest.raises(DataError) as caught:
        export(single_run, "colours", Store(tmp_path / "store"), str(moved))
    assert f"{file}: is missing or has changed since training" in str(caught.value)
    assert "--data" in str(caught.value)
    assert left_in(Store(tmp_path / "store")) == []


@pytest.mark.usefixtures("quick")
def test_training_images_are_no_longer_needed(single_run: Run, moved: Path, tmp_path: Path) -> None:
    for record in single_run.split.train:
        (moved / record.file).unlink()
    assert export(single_run, "colours", Store(tmp_path / "store"), str(moved)).is_dir()


@pytest.mark.usefixtures("quick")
def test_without_training_images_int8_is_left_out_unless_it_was_asked_for(
    single_run: Run, moved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for record in single_run.split.train:
        (moved / record.file).unlink()
    monkeypatch.setattr(forms, "REDUCED", ("int8",))
    store = Store(tmp_path / "store")
    manifest = bundles.read(export(single_run, "colours", store, str(moved))).manifest
    assert [variant.precision for variant in manifest.variants] == ["fp32"]
    assert manifest.left_out["int8"].startswith("24 images cannot be used: ")
    assert manifest.left_out["int8"].endswith("give its folder with --data")
    with pytest.raises(DataError, match="24 images cannot be used: "):
        export(single_run, "colours", store, str(moved), precisions=["int8"])
    assert store.versions("colours") == [1]


@pytest.mark.usefixtures("quick")
def test_a_form_that_cannot_be_made_is_left_out_unless_it_was_asked_for(
    single_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(model: bytes) -> bytes:
        raise RuntimeError("an operator\nthat nobody knows")

    monkeypatch.setattr(forms, "REDUCED", ("fp16",))
    monkeypatch.setattr(reduced_precision, "halved", broken)
    manifest = bundles.read(export(single_run, "colours", Store(tmp_path))).manifest
    assert manifest.left_out == {
        "fp16": "it cannot be made: RuntimeError: an operator that nobody knows"
    }
    with pytest.raises(RuntimeError, match="an operator"):
        export(single_run, "colours", Store(tmp_path), precisions=["fp16"])


def test_data_that_does_not_exist_is_named(single_run: Run, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone does not exist"):
        export(single_run, "colours", Store(tmp_path / "store"), str(tmp_path / "gone"))
