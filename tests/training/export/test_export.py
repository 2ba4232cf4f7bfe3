import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from models import bundle as bundles
from models import golden
from models.bundle import Bundle
from models.errors import BundleError, DataError, GateError
from models.manifest import GOLDEN_SCORES_FILE, Manifest
from models.store import Store
from testkit import image_sets
from training.data import datasets, decoding
from training.evaluation import onnx_session
from training.export import export as module
from training.export import reduced_precision
from training.export.export import export
from training.network.resnet import Served
from training.run_folder import Run


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, single_bundle: Bundle) -> None:
    """The exporter takes seconds: hand out what it made of the single-label run before."""
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
    held_out = {item.sha256 for item in run.items if item.is_valid}
    hashes = bundle.files[manifest.training_images].decode().splitlines()
    assert hashes == sorted({item.sha256 for item in run.items} - held_out)


def test_the_first_of_each_name_is_released(store: Store) -> None:
    assert store.names() == ["colours", "stripes"]
    assert [store.released(name) for name in store.names()] == [1, 1]


def test_the_interface_is_the_promised_one(bundle: Bundle) -> None:
    session = onnxruntime.InferenceSession(bundle.model, providers=["CPUExecutionProvider"])
    described = [
        [(tensor.name, tensor.type, tensor.shape) for tensor in tensors]
        for tensors in (session.get_inputs(), session.get_outputs())
    ]
    assert described == [
        [("images", "tensor(uint8)", ["batch", 32, 32, 3])],
        [
            ("scores", "tensor(float)", ["batch", 3]),
            ("maps", "tensor(float)", ["batch", 3, 1, 1]),
        ],
    ]
    names = bundle.manifest.tensors
    assert (names.images, names.scores, names.maps) == ("images", "scores", "maps")


@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_number_of_images_is_answered_as_torch_does(
    bundle: Bundle, run: Run, count: int
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(bundle.model, providers=["CPUExecutionProvider"])
    network = Served(run.network(), run.outcome.task, run.outcome.temperature).eval()
    with torch.inference_mode():
        expected = network(torch.from_numpy(images))
    for found, reference in zip(session.run(None, {"images": images}), expected, strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, reference.numpy(), rtol=1e-4, atol=1e-4)


def test_the_runner_answers_more_images_than_fit_a_batch(bundle: Bundle) -> None:
    images = np.random.default_rng(0).integers(0, 256, (70, 32, 32, 3), dtype=np.uint8)
    run = onnx_session.runner(bundle.model, bundle.manifest.tensors)
    alone = np.concatenate([run(image[None]) for image in images])
    np.testing.assert_allclose(run(images), alone, atol=1e-5)


def test_maps_grow_with_the_picture(single_run: Run, single_bundle: Bundle) -> None:
    """The graph of another size, through the real exporter."""
    network = Served(single_run.network(), "single", 1.0).eval()
    session = onnxruntime.InferenceSession(module.onnx_bytes(network, 64))
    assert session.get_outputs()[1].shape == ["batch", 3, 2, 2]
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    scores, maps = session.run(None, {"images": images})
    means = maps.mean((2, 3))
    powers = np.exp(means - means.max(1, keepdims=True))
    np.testing.assert_allclose(scores, powers / powers.sum(1, keepdims=True), atol=1e-5)


def test_the_graph_is_one_valid_file_of_default_operators(bundle: Bundle, run: Run) -> None:
    graph = onnx.load_from_string(bundle.model)
    onnx.checker.check_model(graph, full_check=True)
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", 20)]
    assert bundle.manifest.opset == 20
    assert not any(tensor.external_data for tensor in graph.graph.initializer)
    inside = sum(len(tensor.raw_data) for tensor in graph.graph.initializer)
    assert inside > 0.95 * 4 * sum(weight.numel() for weight in run.network().parameters())


def test_the_graph_names_no_path_of_this_machine(bundle: Bundle) -> None:
    """In a name or a text: among the weights' bytes any three letters may be found."""
    graph = onnx.load_from_string(bundle.model)
    attributes = (one for node in graph.graph.node for one in node.attribute if one.HasField("t"))
    for tensor in (*graph.graph.initializer, *(one.t for one in attributes)):
        tensor.ClearField("raw_data")
    texts = graph.SerializeToString()
    assert b"images" in texts and len(texts) < len(bundle.model) / 4
    machine = [Path(__file__).parents[2], Path.home(), Path(torch.__file__).parents[1], sys.prefix]
    for path in [*map(str, machine), "site-packages", ".py"]:
        assert path == "/" or path.encode() not in texts, path


def test_golden_files_are_held_out_images_and_give_their_scores(bundle: Bundle, run: Run) -> None:
    forms = [name for name in bundle.files if name.startswith("golden/") and "json" not in name]
    assert len(forms) == 10
    check = onnx_session.runner(bundle.model, bundle.manifest.tensors)
    assert golden.check(bundle, check, golden.TOLERANCE_CPU).flips == 0
    assert GOLDEN_SCORES_FILE in bundle.files


@pytest.mark.usefixtures("quick")
def test_a_second_export_is_version_two_and_waits_for_its_release(
    single_run: Run, store: Store, tmp_path: Path
) -> None:
    own = Store(tmp_path)
    assert export(single_run, "colours", own) == tmp_path / "colours" / "1"
    assert export(single_run, "colours", own) == tmp_path / "colours" / "2"
    assert own.versions("colours") == [1, 2]
    assert own.released("colours") == 1
    assert bundles.read(own.path("colours:2")).manifest.version == 2


def test_the_same_run_gives_the_same_bundle(
    single_run: Run, single_bundle: Bundle, tmp_path: Path
) -> None:
    """Through the real exporter, a second time."""
    again = bundles.read(export(single_run, "colours", Store(tmp_path)))
    assert again.manifest.files == single_bundle.manifest.files


@pytest.mark.usefixtures("quick")
def test_a_name_that_is_none_is_refused(single_run: Run, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="'Pets!' is no name"):
        export(single_run, "Pets!", Store(tmp_path))
    assert left_in(Store(tmp_path)) == []


def test_a_graph_that_answers_otherwise_leaves_no_bundle(
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
    """As if export wrote down something else than what it exported."""
    monkeypatch.setattr(module, "Manifest", lambda **fields: Manifest(**(fields | change)))
    with pytest.raises(GateError):
        export(single_run, "colours", Store(tmp_path))
    assert Store(tmp_path).names() == []


class AskedError(Exception):
    """What ends an export where a test has seen enough."""


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("most", [256, 5])
def test_the_ranges_of_int8_are_those_of_images_that_were_trained_on(
    single_run: Run,
    single_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    most: int,
) -> None:
    """Of so many of them, first by hash; the gate's own images would flatter the gate."""
    given: list[Any] = []

    def watched(*arguments: Any) -> None:
        given.extend(arguments)
        raise AskedError

    monkeypatch.setattr(module, "_CALIBRATION_IMAGES", most)
    monkeypatch.setattr(reduced_precision, "quantized", watched)
    with pytest.raises(AskedError):
        export(single_run, "colours", Store(tmp_path), precisions=["int8"])
    trained_on = sorted((i for i in single_run.items if not i.is_valid), key=lambda i: i.sha256)
    files = [single_data / item.file for item in trained_on][:most]
    _, name, images = given
    assert (name, len(images)) == ("images", min(most, 24))
    assert np.array_equal(images, decoding.served(files, single_run.outcome.preprocess))


@pytest.fixture
def moved(single_data: Path, tmp_path: Path) -> Path:
    """A copy of the single-label run's images elsewhere."""
    return shutil.copytree(single_data, tmp_path / "moved")


def held_out_file(run: Run) -> str:
    return next(item.file for item in run.items if item.is_valid)


@pytest.mark.usefixtures("quick")
def test_images_that_moved_are_named_with_data(
    single_run: Run, moved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere(*arguments: Any) -> None:
        raise AssertionError(f"read {arguments}, not {moved}")

    read = datasets.read
    monkeypatch.setattr(
        datasets, "read", lambda p, *more: read(p, *more) if p == str(moved) else nowhere(p)
    )
    assert export(single_run, "colours", Store(tmp_path / "store"), str(moved)).is_dir()


@pytest.mark.parametrize("damage", ["changed", "missing"])
@pytest.mark.usefixtures("quick")
def test_held_out_images_must_be_those_of_the_training(
    single_run: Run, moved: Path, tmp_path: Path, damage: str
) -> None:
    file = moved / held_out_file(single_run)
    if damage == "changed":
        file.write_bytes(image_sets.image(77))
    else:
        file.unlink()
    with pytest.raises(DataError) as caught:
        export(single_run, "colours", Store(tmp_path / "store"), str(moved))
    assert f"{file} is missing or was changed since training" in str(caught.value)
    assert "--data" in str(caught.value)
    assert left_in(Store(tmp_path / "store")) == []


@pytest.mark.usefixtures("quick")
def test_training_images_are_not_needed_any_more(
    single_run: Run, moved: Path, tmp_path: Path
) -> None:
    for item in single_run.items:
        if not item.is_valid:
            (moved / item.file).unlink()
    assert export(single_run, "colours", Store(tmp_path / "store"), str(moved)).is_dir()


def test_data_that_is_gone_says_so(single_run: Run, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone does not exist"):
        export(single_run, "colours", Store(tmp_path / "store"), str(tmp_path / "gone"))
