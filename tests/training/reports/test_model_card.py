from typing import Any

import pytest
import yaml

from models.bundle import Bundle
from models.manifest import Release
from training.reports import model_card


def parts(bundle: Bundle, release: Release | None = None) -> tuple[dict[str, Any], str]:
    """The card's metadata and its text."""
    manifest = bundle.manifest.model_copy(update={"release": release})
    text = model_card.write(manifest, images=24, trained_on=24).decode()
    _, header, body = text.split("---\n", 2)
    return yaml.safe_load(header), body


def test_the_metadata_are_what_the_hub_reads(bundle: Bundle) -> None:
    header, _ = parts(bundle)
    assert header["library_name"] == "onnx"
    assert header["pipeline_tag"] == "image-classification"
    (model,) = header["model-index"]
    assert model["name"] == bundle.manifest.name
    (result,) = model["results"]
    assert result["task"]["type"] == "image-classification"
    assert {"type", "name", "split"} <= result["dataset"].keys()
    for metric in result["metrics"]:
        assert set(metric) == {"type", "name", "value"} and 0 <= metric["value"] <= 1


def test_the_figures_are_the_manifest_s(single_bundle: Bundle, multi_bundle: Bundle) -> None:
    for bundle, name, more in ((single_bundle, "error", False), (multi_bundle, "map", True)):
        header, body = parts(bundle)
        value = bundle.manifest.metrics[name].value
        (first, *_) = header["model-index"][0]["results"][0]["metrics"]
        assert first["value"] == pytest.approx(value if more else 1 - value, abs=1e-5)
        assert f"| {name} | {value:.4f} |" in body


def test_the_text_says_how_to_use_it_and_where_it_comes_from(bundle: Bundle) -> None:
    _, body = parts(bundle)
    manifest = bundle.manifest
    assert f"model={manifest.name}" in body
    assert f"uint8 `[N, {manifest.preprocess.image_size_px}," in body
    assert ", ".join(manifest.labels) in body
    assert manifest.provenance.data_fingerprint[:16] in body
    assert f"Processor: {manifest.provenance.processor}." in body
    assert "Release:" not in body


def test_a_forced_release_is_told(bundle: Bundle) -> None:
    decision = Release(
        verdict="refused: it is worse",
        replaced=1,
        images=9,
        margin=0.01,
        difference=None,
        worse_labels=(),
        allowed_labels=(),
        forced=True,
    )
    _, body = parts(bundle, decision)
    assert "Release: refused: it is worse Released nevertheless (`--force`)." in body
