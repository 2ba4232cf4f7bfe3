"""`export`: a run to a bundle in the store, through the gate."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch

from models import golden
from models.bundle import Bundle, hashes, sha256
from models.errors import DataError
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
from training.data import datasets, decoding
from training.data.split import Item
from training.export import gate, reduced_precision
from training.export.gate import Reference
from training.network.resnet import Served
from training.reports import model_card
from training.reports.model_card import CARD_FILE
from training.run_folder import REPORT_FILE, Run

_OPSET = 20
_GOLDEN_PICTURES = 5
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
) -> Path:
    """Write the run to `<store>/<name>/<next version>`; that folder.

    precisions: variants beside fp32; release: what was decided, for the manifest. The gate needs
    the held-out images, and int8 images that were trained on: where the recipe says they are, or
    at `data_path`. Raises DataError if they are missing or changed, GateError if an exported
    network does not answer as the trained one; then there is no bundle.
    """
    outcome = run.outcome
    network = Served(run.network(), outcome.task, outcome.temperature).eval()
    items, files = held_out(run, data_path)
    images = decoding.served(files, outcome.preprocess).numpy()
    reference = Reference(
        images,
        [item.labels for item in items],
        gate.reference_scores(network, images),
        outcome.labels,
        outcome.thresholds,
    )
    golden_files = golden.forms([file.read_bytes() for file in files[:_GOLDEN_PICTURES]])
    golden_scores = gate.reference_scores(network, golden.inputs(golden_files, outcome.preprocess))
    trained_on = sorted(item.sha256 for item in run.items if not item.is_valid)
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
        contents[CARD_FILE] = model_card.write(manifest(gates), len(items), len(trained_on))
        return manifest(gates), contents

    return store.add(name, make)


def held_out(run: Run, data_path: str | None = None) -> tuple[list[Item], list[Path]]:
    """The run's held-out images and their files; DataError if one is missing or was changed.

    They are where the recipe says, or at `data_path`.
    """
    items = sorted((i for i in run.items if i.is_valid), key=lambda item: item.sha256)
    return items, _files(run, items, data_path)


def _networks(
    run: Run, network: Served, precisions: Sequence[Precision], data_path: str | None
) -> dict[Precision, bytes]:
    """The network in fp32, which comes first, and in the other precisions."""
    preprocess = run.outcome.preprocess
    size_px = preprocess.image_size_px
    networks: dict[Precision, bytes] = {"fp32": onnx_bytes(network, size_px)}
    if "fp16" in precisions:
        networks["fp16"] = onnx_bytes(reduced_precision.halved(network), size_px)
    if "int8" in precisions:
        trained_on = sorted((i for i in run.items if not i.is_valid), key=lambda item: item.sha256)
        files = _files(run, trained_on[:_CALIBRATION_IMAGES], data_path)
        images = decoding.served(files, preprocess).numpy()
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


def _files(run: Run, items: Sequence[Item], data_path: str | None) -> list[Path]:
    """The items' files, unchanged since training."""
    recipe = run.recipe
    root = datasets.read(data_path or recipe.data, recipe.pattern, recipe.images).root
    files = [root / item.file for item in items]
    for file, item in zip(files, items, strict=True):
        if not file.is_file() or sha256(file.read_bytes()) != item.sha256:
            raise DataError(
                f"{file} is missing or was changed since training; give the data with --data"
            )
    return files
