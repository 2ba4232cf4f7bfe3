"""`export`: a run to a bundle in the store, through the gate."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch

from models import golden
from models.bundle import Bundle, hashes, sha256
from models.errors import DataError
from models.manifest import GOLDEN_SCORES_FILE, MODEL_FILE, Gate, Manifest, Tensors, Variant
from models.store import Store
from training import data, gate, pictures
from training.network import Served
from training.run import Run
from training.split import Item

_OPSET = 20
_GOLDEN_PICTURES = 5
_TRAINING_IMAGES_FILE = "training_images.sha256"


def export(run: Run, name: str, store: Store, data_path: str | None = None) -> Path:
    """Write the run to `<store>/<name>/<next version>`; that folder.

    The gate needs the held-out images: where the recipe says they are, or at `data_path`. Raises
    DataError if they are missing or changed, GateError if the exported network does not answer
    as the trained one; then there is no bundle.
    """
    outcome = run.outcome
    network = Served(run.network(), outcome.task, outcome.temperature).eval()
    held_out = sorted((i for i in run.items if i.is_valid), key=lambda item: item.sha256)
    files = _files(run, held_out, data_path)
    validation = gate.Validation(
        pictures.served(files, outcome.preprocess).numpy(), [item.labels for item in held_out]
    )
    golden_files = golden.forms([file.read_bytes() for file in files[:_GOLDEN_PICTURES]])
    golden_scores = gate.reference_scores(network, golden.inputs(golden_files, outcome.preprocess))
    trained_on = sorted(item.sha256 for item in run.items if not item.is_valid)
    contents = {
        MODEL_FILE: onnx_bytes(network, outcome.preprocess.image_size_px),
        **golden_files,
        GOLDEN_SCORES_FILE: golden.scores_file(list(golden_files), golden_scores),
        _TRAINING_IMAGES_FILE: "".join(f"{line}\n" for line in trained_on).encode(),
    }

    def make(version: int) -> tuple[Manifest, dict[str, bytes]]:
        def manifest(measured: Gate) -> Manifest:
            return Manifest(
                name=name,
                version=version,
                task=outcome.task,
                labels=outcome.labels,
                thresholds=outcome.thresholds,
                temperature=outcome.temperature,
                preprocess=outcome.preprocess,
                tensors=Tensors(images="images", scores="scores", maps="maps"),
                opset=_OPSET,
                variants=(Variant(file=MODEL_FILE, precision="fp32", gate=measured),),
                metrics=outcome.metrics,
                baseline=outcome.baseline,
                training_images=_TRAINING_IMAGES_FILE,
                provenance=outcome.provenance,
                files=hashes(contents),
            )

        draft = Bundle(Path(name), manifest(gate.UNMEASURED), contents)
        measured = gate.check(draft, network, outcome.labels, outcome.thresholds, validation)
        return manifest(measured), contents

    return store.add(name, make)


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
            input_names=["images"],
            output_names=["scores", "maps"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}},
            verbose=False,
        )
    model: onnx.ModelProto = program.model_proto  # type: ignore[union-attr]
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces with the paths of this machine
    return bytes(model.SerializeToString())


def _files(run: Run, items: Sequence[Item], data_path: str | None) -> list[Path]:
    """The items' files, unchanged since training."""
    recipe = run.recipe
    root = data.read(data_path or recipe.data, recipe.pattern, recipe.images).root
    files = [root / item.file for item in items]
    for file, item in zip(files, items, strict=True):
        if not file.is_file() or sha256(file.read_bytes()) != item.sha256:
            raise DataError(
                f"{file} is missing or was changed since training; give the data with --data"
            )
    return files
