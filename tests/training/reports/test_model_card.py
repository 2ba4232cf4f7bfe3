import re
from dataclasses import replace
from typing import Any

import pytest
import yaml

from models.bundle import Bundle
from models.manifest import Conformal, Metric, Release, Variant
from training.evaluation.evaluate import HEADLINE
from training.reports import model_card
from training.reports.model_card import CARD_FILE
from training.run_folder import Run


def parts(run: Run, bundle: Bundle, release: Release | None = None) -> tuple[dict[str, Any], str]:
    """The metadata and the text of the card of the run's bundle."""
    manifest = bundle.manifest
    text = model_card.write(
        manifest.name,
        manifest.version,
        run.outcome,
        manifest.variants,
        {variant.file: len(bundle.files[variant.file]) for variant in manifest.variants},
        manifest.left_out,
        release,
        images=24,
        trained_on=24,
        promised=manifest.conformal,
    ).decode()
    _, header, body = text.split("---\n", 2)
    return yaml.safe_load(header), body


def test_the_metadata_has_what_the_hub_reads(run: Run, bundle: Bundle) -> None:
    header, _ = parts(run, bundle)
    assert header["library_name"] == "onnx"
    assert header["pipeline_tag"] == "image-classification"
    (model,) = header["model-index"]
    assert model["name"] == bundle.manifest.name
    (result,) = model["results"]
    assert result["task"]["type"] == "image-classification"
    assert {"type", "name", "split"} <= result["dataset"].keys()
    for metric in result["metrics"]:
        assert set(metric) == {"type", "name", "value"} and 0 <= metric["value"] <= 1


def test_a_metric_that_a_variant_does_not_have_is_a_dash(
    single_run: Run, single_bundle: Bundle
) -> None:
    """As the top-5 error of three labels in a run of Labrador 0.1."""
    metrics = {**single_run.outcome.metrics, "top5_error": Metric(value=0, low=0, high=0)}
    old = replace(single_run, outcome=single_run.outcome.model_copy(update={"metrics": metrics}))
    assert "\n| top5_error | – |\n" in parts(old, single_bundle)[1]


def test_the_metrics_are_those_of_the_manifest(run: Run, bundle: Bundle) -> None:
    header, body = parts(run, bundle)
    name = HEADLINE[bundle.manifest.task]
    value = bundle.manifest.metrics[name].value
    (first, *_) = header["model-index"][0]["results"][0]["metrics"]
    assert first["value"] == pytest.approx(1 - value if name == "error" else value, abs=1e-5)
    gate = bundle.manifest.variants[0].gate
    assert gate.own_metrics is not None
    own = gate.own_metrics[name]
    shown = f"{own.value:.4f} [{own.low:.4f}, {own.high:.4f}]"
    assert f"\n| metric | fp32 |\n|---|---|\n| {next(iter(gate.own_metrics))} | " in body
    assert f"\n| {name} | {shown} |\n" in body
    megabytes = len(bundle.model) / 1e6
    assert (
        f"\n| `model.onnx` | {megabytes:.1f} | {shown} | 0 of {gate.decisions} |"
        f" {gate.max_difference:.1e} (tolerance 0.0001) | a CPU and CUDA | 0.00 [0.00, 0.00] |"
        " +0.00 ["
    ) in body


def test_each_form_has_its_own_figures(run: Run, bundle: Bundle) -> None:
    manifest = bundle.manifest
    (fp32,) = manifest.variants
    name = HEADLINE[manifest.task]
    worse = Metric(value=0.25, low=0.125, high=0.5)
    gate = fp32.gate.model_copy(
        update={"own_metrics": {**manifest.metrics, name: worse}, "flips": 2, "decisions": 1440}
    )
    int8 = Variant(file="model.int8.onnx", precision="int8", gate=gate)
    both = manifest.model_copy(update={"variants": (fp32, int8)})
    files = {**bundle.files, int8.file: bytes(1_540_000)}
    _, body = parts(run, replace(bundle, manifest=both, files=files))
    assert (
        re.search(r"; tags \+0\.00 \[-\d+\.\d\d, \+\d+\.\d\d\] \|\n", body)
        or run.outcome.task == "single"
    )
    assert "\n| metric | fp32 | int8 |\n|---|---|---|\n" in body
    (row,) = re.findall(rf"\n\| {name} \| .* \| (.*) \|\n", body)
    assert row == "0.2500 [0.1250, 0.5000]"
    assert f"\n| `model.int8.onnx` | 1.5 | {row} | 2 of 1,440 | " in body
    assert re.search(r"\n\| `model.int8.onnx` .* \| a CPU \| ", body)
    assert re.search(r"\n\| `model.onnx` .* \| a CPU and CUDA \| ", body)
    assert "left out" not in body


def test_data_that_was_the_current_folder_has_that_folder_s_name(
    single_run: Run, single_bundle: Bundle
) -> None:
    origin = single_run.outcome.provenance
    here = origin.model_copy(update={"recipe": {**origin.recipe, "data": "."}})
    outcome = single_run.outcome.model_copy(update={"provenance": here})
    header, _ = parts(replace(single_run, outcome=outcome), single_bundle)
    assert header["model-index"][0]["results"][0]["dataset"]["name"] == "colours"


def test_a_form_that_is_left_out_is_named_with_the_reason(run: Run, bundle: Bundle) -> None:
    without = bundle.manifest.model_copy(update={"left_out": {"int8": "too few images"}})
    _, body = parts(run, replace(bundle, manifest=without))
    assert "\nint8 is left out: too few images.\n" in body


def test_a_bundle_holds_the_card_of_its_run(run: Run, bundle: Bundle) -> None:
    header, body = parts(run, bundle)
    _, kept_header, kept_body = bundle.files[CARD_FILE].decode().split("---\n", 2)
    assert (yaml.safe_load(kept_header), kept_body) == (
        header,
        body.replace("On 24 validation", f"On {len(run.split.valid)} validation").replace(
            "on 24 images of", f"on {len(run.split.train)} images of"
        ),
    )


def test_the_text_says_how_to_use_it_and_where_it_comes_from(run: Run, bundle: Bundle) -> None:
    _, body = parts(run, bundle)
    manifest = bundle.manifest
    assert f"model={manifest.name}" in body
    assert f"uint8 `[N, {manifest.preprocess.image_size_px}," in body
    assert ", ".join(manifest.labels) in body
    assert manifest.provenance.data_fingerprint[:16] in body
    assert f"Processor: {manifest.provenance.processor}." in body
    assert "Release:" not in body


def test_a_forced_release_is_mentioned(run: Run, bundle: Bundle) -> None:
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
    _, body = parts(run, bundle, decision)
    assert "Release: refused: it is worse Released anyway (`--force`)." in body


def test_what_is_said_of_anything_else_depends_on_what_is_promised(
    run: Run, bundle: Bundle
) -> None:
    _, body = parts(run, bundle)
    assert "called unknown if that is at most alpha, 0.01 by default" in body
    assert f"(but {len(run.split.valid)} images can promise no less than 0.0" in body
    promised = Conformal(file="conformal.json", images=99, alpha=0.01)
    enough = bundle.manifest.model_copy(update={"conformal": promised})
    assert "can promise no less" not in parts(run, replace(bundle, manifest=enough))[1]
    nothing = bundle.manifest.model_copy(update={"conformal": None})
    _, body = parts(run, replace(bundle, manifest=nothing))
    assert "novelty" not in body and "\n\n\n" not in body


def test_the_card_counts_the_images_of_which_each_form_judges_otherwise(
    run: Run, bundle: Bundle
) -> None:
    (fp32,) = bundle.manifest.variants
    assert fp32.gate.novelty is not None
    changed = fp32.gate.novelty.model_copy(update={"changed": 7})
    other = fp32.model_copy(update={"gate": fp32.gate.model_copy(update={"novelty": changed})})
    manifest = bundle.manifest.model_copy(update={"variants": (other,)})
    assert "calls unknown: fp32 7.\n" in parts(run, replace(bundle, manifest=manifest))[1]
