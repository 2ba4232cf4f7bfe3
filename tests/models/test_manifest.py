import json
import math
import re
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
from pydantic import ValidationError

from models import manifest as contract
from models.manifest import Baseline, Manifest, Tensors
from testkit.bundles import FILES, manifest, multi, values

RELEASE = {
    "verdict": "released: better by 2.00%",
    "replaced": 2,
    "images": 900,
    "margin": 0.01,
    "difference": {"value": -0.02, "low": -0.03, "high": -0.01},
    "worse_labels": ["cat"],
    "allowed_labels": ["cat"],
    "forced": False,
}


def test_a_manifest_survives_a_json_round_trip() -> None:
    for one in (manifest(), manifest(**multi()), manifest(release=RELEASE)):
        assert Manifest.model_validate_json(one.model_dump_json()) == one


def test_labels_keep_their_order_and_may_be_in_any_script() -> None:
    labels = ["zebra", "Ärger", "犬 🐕"]
    text = manifest(labels=labels).model_dump_json()
    assert Manifest.model_validate_json(text).labels == tuple(labels)


def test_a_multi_label_model_may_have_a_single_label() -> None:
    baseline = values()["baseline"] | {"label_share": [0.5]}
    one = manifest(**multi(labels=["cat"], thresholds=[0.5], baseline=baseline))
    assert one.labels == ("cat",)


@pytest.mark.parametrize("schema_version", [0, 2, "two", None])
def test_another_schema_version_is_refused(schema_version: object) -> None:
    with pytest.raises(ValidationError, match="schema_version"):
        manifest(schema_version=schema_version)


@pytest.mark.parametrize(
    "where",
    ["", "preprocess", "tensors", "baseline", "provenance", "variants.0", "variants.0.gate"],
)
def test_an_unknown_key_is_refused_at_every_depth(where: str) -> None:
    raw: Any = values()
    found = raw
    for part in where.split("."):
        found = found[int(part)] if part.isdigit() else found[part] if part else found
    found["colour"] = "blue"
    with pytest.raises(ValidationError, match=r"colour\n +Extra inputs"):
        Manifest.model_validate(raw)


FREE = (
    "recipe",
    "libraries",
    "files",
    "metrics",
    "own_metrics",
    "left_out",
)  # their keys depend on the run
OPTIONAL = (
    "schema_version",
    "release",
    "decisions",
    "own_metrics",
    "tags_loss",
    "probability_change",
    "left_out",
)  # have defaults; `tensors` has its own test


def keys(found: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of all keys of a manifest that its schema defines."""
    for key, value in found.items() if isinstance(found, dict) else enumerate(found):
        here = (*path, str(key))
        if isinstance(found, dict) and not (path and path[-1] in FREE):
            yield here
        if isinstance(value, dict | list):
            yield from keys(value, here)


def parent_of(raw: Any, path: str) -> tuple[Any, str | int]:
    """The object or list that contains the last part of the dotted path, and that part."""
    *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
    for part in parents:
        raw = raw[part]
    return raw, last


@pytest.mark.parametrize(
    "path",
    [
        ".".join(path)
        for path in keys(values(release=RELEASE))
        if path[0] != "tensors" and path[-1] not in OPTIONAL
    ],
)
def test_a_missing_key_is_refused_at_every_depth(path: str) -> None:
    raw = values(release=deepcopy(RELEASE))
    found, key = parent_of(raw, path)
    del found[key]
    with pytest.raises(ValidationError, match=rf"{re.escape(path)}\n +Field required"):
        Manifest.model_validate(raw)


def test_optional_keys_have_their_defaults() -> None:
    raw = values()
    for key in ("schema_version", "release", "tensors"):
        del raw[key]
    raw.pop("left_out")
    newer = ("decisions", "own_metrics", "tags_loss", "probability_change")  # than the first ones
    for key in newer:
        del raw["variants"][0]["gate"][key]
    one = Manifest.model_validate(raw)
    assert [getattr(one.variants[0].gate, key) for key in newer] == [None] * 4
    assert one.left_out == {}
    assert (one.schema_version, one.release) == (1, None)
    assert one.tensors == Tensors(images="images", scores="scores", maps="maps")


TINY = 5e-324  # the smallest float above 0
JUST_ABOVE_1 = math.nextafter(1, 2)


@pytest.mark.parametrize(
    ("path", "inside", "outside"),
    [
        ("version", 1, 0),
        ("opset", 1, 0),
        ("temperature", TINY, 0.0),
        ("preprocess.image_size_px", 8, 7),
        ("preprocess.image_size_px", 1024, 1025),
        ("preprocess.crop_fraction", TINY, 0.0),
        ("preprocess.crop_fraction", 1.0, JUST_ABOVE_1),
        ("baseline.label_share.0", 0.0, -TINY),
        ("baseline.label_share.0", 1.0, JUST_ABOVE_1),
        ("variants.0.gate.tolerance", TINY, 0.0),
        ("variants.0.gate.max_difference", 0.0, -TINY),
        ("variants.0.gate.flips", 0, -1),
        ("variants.0.gate.decisions", 0, -1),
        ("release.replaced", 1, 0),
        ("release.images", 0, -1),
        ("release.margin", TINY, 0.0),
        ("name", "p" * 63, "p" * 64),
        ("provenance.data_fingerprint", "f" * 64, "F" * 64),
        ("provenance.data_fingerprint", "0" * 64, "0" * 65),
    ],
)
def test_each_bound_accepts_the_last_value_inside(path: str, inside: Any, outside: Any) -> None:
    raw = values(release=deepcopy(RELEASE))
    found, key = parent_of(raw, path)
    found[key] = inside
    Manifest.model_validate(raw)
    found[key] = outside
    with pytest.raises(ValidationError) as caught:
        Manifest.model_validate(raw)
    assert ".".join(map(str, caught.value.errors()[0]["loc"])) == path


def test_file_names_are_those_of_bundles_on_disk() -> None:
    assert contract.MANIFEST_FILE == "manifest.json"
    assert contract.MANIFEST_HASH_FILE == "manifest.sha256"
    assert contract.MODEL_FILE == "model.onnx"
    assert contract.GOLDEN_SCORES_FILE == "golden/scores.json"


def test_a_manifest_is_immutable_in_memory() -> None:
    one = manifest()
    with pytest.raises(ValidationError, match="frozen"):
        one.version = 2  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        one.preprocess.crop_fraction = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "Pets"}, "name"),
        ({"name": "pets\n"}, "name"),
        ({"name": "../pets"}, "name"),
        ({"name": "p" * 64}, "name"),
        ({"version": 0}, "version"),
        ({"task": "both"}, "'single' or 'multi'"),
        ({"labels": []}, "labels"),
        ({"labels": ["cat", "dog", "cat"]}, "labels must be distinct"),
        ({"labels": ["cat", "dog", ""]}, "labels must be distinct and not empty"),
        ({"labels": ["cat", "dog"]}, "one share per label"),
        ({"thresholds": [0.5, 0.5, 0.5]}, "multi-label models only"),
        (multi(thresholds=None), "one threshold per label"),
        (multi(thresholds=[0.5, 0.5]), "one threshold per label"),
        (multi(thresholds=[0.5, 0.5, 1.01]), r"thresholds\.2"),
        (multi(thresholds=[0.5, math.nan, 0.5]), r"thresholds\.1"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": math.inf}, "temperature"),
        ({"preprocess": {"image_size_px": 7, "crop_fraction": 1}}, "image_size_px"),
        ({"preprocess": {"image_size_px": 2048, "crop_fraction": 1}}, "image_size_px"),
        ({"preprocess": {"image_size_px": 224, "crop_fraction": 0}}, "crop_fraction"),
        ({"preprocess": {"image_size_px": 224, "crop_fraction": 1.1}}, "crop_fraction"),
        ({"metrics": {"error": {"value": math.nan, "low": 0, "high": 1}}}, "finite"),
        ({"variants": []}, "variants"),
        ({"training_images": "other.txt"}, "files does not list other.txt"),
        ({"files": {}}, "files does not list model.onnx, golden/scores.json"),
        ({"files": values()["files"] | {"report.html": "0" * 63}}, r"files\.`report\.html`"),
    ],
)
def test_an_inconsistent_manifest_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Manifest.model_validate(values() | changes)


@pytest.mark.parametrize(
    "path",
    [
        *("../model.onnx", "golden/../../x", "/etc/passwd", "./report.html", "golden//x"),
        *("golden/", "", "a\nb", "a b", "C:\\x", "golden\\x", "ä.jpg", "a\0b", ".."),
    ],
)
def test_a_path_that_leaves_the_bundle_or_is_odd_is_refused(path: str) -> None:
    with pytest.raises(ValidationError, match=r"not a relative path|has characters"):
        manifest(FILES | {path: b""})


@pytest.mark.parametrize(
    ("file", "precision"), [("model.fp16.onnx", "fp32"), ("model.onnx", "fp16")]
)
def test_the_first_variant_is_the_fp32_network(file: str, precision: str) -> None:
    files = FILES | {"model.fp16.onnx": b"half"}
    variant = values()["variants"][0]
    other = variant | {"file": "model.fp16.onnx", "precision": "fp16"}
    assert manifest(files, variants=[variant, other]).variants[1].precision == "fp16"
    with pytest.raises(ValidationError, match=r"first variant must be model\.onnx in fp32"):
        manifest(files, variants=[variant | {"file": file, "precision": precision}])


def test_a_variant_whose_file_is_not_listed_is_refused() -> None:
    variant = values()["variants"][0]
    other = variant | {"file": "model.int8.onnx", "precision": "int8"}
    with pytest.raises(ValidationError, match=r"files does not list model\.int8\.onnx"):
        manifest(variants=[variant, other])


def test_edges_and_counts_of_the_baseline_must_match() -> None:
    with pytest.raises(ValidationError, match="differ in length"):
        Baseline(label_share=(1.0,), confidence_edges=(0.5, 1.0), confidence_counts=(1,))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_refused_in_json_too(number: str) -> None:
    text = json.dumps(values()).replace("1.25", number)
    with pytest.raises(ValidationError, match="temperature"):
        Manifest.model_validate_json(text)


def novel(**changes: Any) -> dict[str, Any]:
    """The changes that make the manifest one of a network with novelty."""
    raw = values()
    raw["variants"][0]["gate"]["novelty"] = {
        "tolerance": 1e-3,
        "max_difference": 1e-5,
        "changed": 0,
    }
    files = {**FILES, "golden/novelty.json": b"{}", "conformal.json": b"{}"}
    return {
        "tensors": {**raw["tensors"], "novelty": "novelty"},
        "conformal": {"file": "conformal.json", "images": 199, "alpha": 0.01},
        "variants": raw["variants"],
        "files": files,
    } | changes


def test_a_network_with_novelty_survives_a_json_round_trip() -> None:
    one = manifest(**novel())
    assert Manifest.model_validate_json(one.model_dump_json()) == one
    assert one.tensors.novelty == "novelty"


def test_a_manifest_from_before_has_no_novelty() -> None:
    one = manifest()
    assert one.tensors.novelty is None and one.conformal is None
    assert one.variants[0].gate.novelty is None


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"conformal": None}, "novelty needs conformal"),
        ({"variants": values()["variants"]}, r"needs gate\.novelty in every variant"),
        ({"files": {**FILES, "conformal.json": b""}}, "does not list golden/novelty.json"),
        ({"files": {**FILES, "golden/novelty.json": b""}}, "does not list conformal.json"),
        ({"conformal": {"file": "conformal.json", "images": 9, "alpha": 1}}, "less than 1"),
        ({"conformal": {"file": "conformal.json", "images": 9, "alpha": 0}}, "greater than 0"),
        ({"conformal": {"file": "conformal.json", "images": 0, "alpha": 0.1}}, "or equal to 1"),
    ],
)
def test_novelty_without_what_it_needs_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        manifest(**novel(**changes))
