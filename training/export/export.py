"""`export`: a run to a bundle in the store, through the gate."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch

from models import golden
from models.bundle import Bundle, hashes
from models.manifest import (
    GOLDEN_SCORES_FILE,
    MODEL_FILE,
    Gate,
    Manifest,
    Precision,
    Release,
    Tensors,
    Variant,
)
from models.store import Store
from training.export import gate, reduced_precision
from training.export.gate import Reference
from training.export.run_images import RunImages, training_images, validation_images
from training.network.resnet import Served
from training.reports import model_card
from training.reports.model_card import CARD_FILE
from training.run_folder import REPORT_FILE, Run

_OPSET = 20
_TRAINING_IMAGES_FILE = "training_images.sha256"
_TENSORS = Tensors()
_CALIBRATION_IMAGES = 256


def export(
    run: Run,
    name: str,
    store: Store,
    data_path: str | None = None,
    *,
    precisions: Sequence[Precision] = (),
    release: Release | None = None,
    found: RunImages | None = None,
) -> Path:
    """Write the run to `<store>/<name>/<next version>`; that folder.

    precisions: variants beside fp32; release: what was decided, for the manifest. The gate needs
    the validation images, unless they were `found` before, and int8 images that were trained on:
    where they were, or at `data_path`. Raises DataError if they are missing or changed, GateError
    if an exported network does not answer as the trained one; then there is no bundle.
    """
    outcome = run.outcome
    network = Served(run.network(), outcome.task, outcome.temperature).eval()
    found = found or validation_images(run, data_path)
    images = found.images[outcome.preprocess]
    reference = Reference(
        images,
        found.records,
        gate.reference_scores(network, images),
        outcome.labels,
        outcome.thresholds,
    )
    golden_files = golden.forms(found.files)
    golden_scores = gate.reference_scores(network, golden.inputs(golden_files, outcome.preprocess))
    trained_on = sorted(record.sha256 for record in run.split.train)
    networks = _networks(run, network, precisions, data_path)
    contents = {
        **{_file(precision): model for precision, model in networks.items()},
        **golden_files,
        GOLDEN_SCORES_FILE: golden.scores_file(list(golden_files), golden_scores),
        _TRAINING_IMAGES_FILE: "".join(f"{line}\n" for line in trained_on).encode(),
        REPORT_FILE: run.report(),
    }

    def make(version: int) -> tuple[Manifest, dict[str, bytes]]:
        def manifest(gates: Sequence[Gate]) -> Manifest:
            return Manifest(
                name=name,
                version=version,
                task=outcome.task,
                labels=outcome.labels,
                thresholds=outcome.thresholds,
                temperature=outcome.temperature,
                preprocess=outcome.preprocess,
                tensors=_TENSORS,
                opset=_OPSET,
                variants=tuple(
                    Variant(file=_file(precision), precision=precision, gate=measured)
                    for precision, measured in zip(networks, gates, strict=True)
                ),
                metrics=outcome.metrics,
                baseline=outcome.baseline,
                training_images=_TRAINING_IMAGES_FILE,
                release=release,
                provenance=outcome.provenance,
                files=hashes(contents),
            )

        draft = Bundle(Path(name), manifest([gate.unmeasured(p) for p in networks]), contents)
        gates = [gate.check(draft, variant, reference) for variant in draft.manifest.variants]
        contents[CARD_FILE] = model_card.write(manifest(gates), len(found.records), len(trained_on))
        return manifest(gates), contents

    return store.add(name, make)


def _networks(
    run: Run, network: Served, precisions: Sequence[Precision], data_path: str | None
) -> dict[Precision, bytes]:
    """The network in fp32, which comes first, and in the other precisions."""
    size_px = run.outcome.preprocess.image_size_px
    networks: dict[Precision, bytes] = {"fp32": onnx_bytes(network, size_px)}
    if "fp16" in precisions:
        networks["fp16"] = onnx_bytes(reduced_precision.halved(network), size_px)
    if "int8" in precisions:
        images = training_images(run, data_path, most=_CALIBRATION_IMAGES)
        networks["int8"] = reduced_precision.quantized(networks["fp32"], _TENSORS.images, images)
    return networks


def _file(precision: Precision) -> str:
    return MODEL_FILE if precision == "fp32" else f"model.{precision}.onnx"


def onnx_bytes(network: Served, image_size_px: int) -> bytes:
    """The network as one ONNX file: images uint8 `[N, S, S, 3]`, any N -> scores, maps."""
    example = torch.zeros(2, image_size_px, image_size_px, 3, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, about its own internals
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            external_data=False,
            opset_version=_OPSET,
            input_names=[_TENSORS.images],
            output_names=[_TENSORS.scores, str(_TENSORS.maps)],
            dynamic_shapes={_TENSORS.images: {0: torch.export.Dim("batch", min=1)}},
            verbose=False,
        )
    model: onnx.ModelProto = program.model_proto  # type: ignore[union-attr]
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces with the paths of this machine
    return bytes(model.SerializeToString())
