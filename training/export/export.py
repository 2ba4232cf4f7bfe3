"""`export`: turns a run into a bundle in the store, if it passes the gate."""

from collections.abc import Sequence
from pathlib import Path

from models import golden
from models.bundle import hashes
from models.manifest import Contract, Manifest, Precision, Release
from models.signing.signature import Signer
from models.store import Store
from training.export import forms, gate, promises
from training.export.gate import Reference
from training.export.onnx_export import OPSET, onnx_bytes, tensors_of
from training.export.run_images import RunImages, training_images, validation_images
from training.network.resnet import Served
from training.reports import model_card
from training.reports.model_card import CARD_FILE
from training.run_folder import REPORT_FILE, Run

_TRAINING_IMAGES_FILE = "training_images.sha256"
_CALIBRATION_IMAGES = 256


def export(
    run: Run,
    name: str,
    store: Store,
    data_path: str | Sequence[str] | None = None,
    *,
    precisions: Sequence[Precision] | None = None,
    release: Release | None = None,
    found: RunImages | None = None,
    signer: Signer | None = None,
) -> Path:
    """Export the run to `<store>/<name>/<next version>`, signed if there is a signer; its folder.

    precisions: the forms beside fp32, each of which must pass its gate; None: all that pass, and
    the manifest says why the others are left out. release: the decision, for the manifest. The gate
    needs the validation images, unless they are given as `found`, and int8 needs training images:
    where they were, or at `data_path`. Raises DataError if they are missing or changed, GateError
    if an exported network does not match the trained one; then no bundle is written.
    """
    store.versions(name)  # refuses an invalid name before the work
    outcome = run.outcome
    network = Served(run.network(), outcome.task, outcome.temperature, run.novelty()).eval()
    found = found or validation_images(run, data_path)
    images = found.images[outcome.preprocess]
    rows = {record.file: row for row, record in enumerate(found.records)}
    trained = gate.reference_outputs(network, images)
    reference = Reference(
        images,
        found.records,
        trained.scores,
        outcome.labels,
        outcome.thresholds,
        outcome.temperature,
        [rows[record.file] for record in run.split.valid],
        trained.novelty,
    )
    golden_files = golden.forms(found.files)
    expected = gate.reference_outputs(network, golden.inputs(golden_files, outcome.preprocess))
    trained_on = sorted(record.sha256 for record in run.split.train)
    contents = {
        **golden_files,
        **golden.outputs_files(list(golden_files), expected),
        _TRAINING_IMAGES_FILE: "".join(f"{line}\n" for line in trained_on).encode(),
        REPORT_FILE: run.report(),
    }
    contract = Contract(
        task=outcome.task,
        labels=outcome.labels,
        thresholds=outcome.thresholds,
        preprocess=outcome.preprocess,
        tensors=tensors_of(network),
    )

    made = forms.make(
        onnx_bytes(network, outcome.preprocess.image_size_px),
        precisions,
        lambda: training_images(run, data_path, most=_CALIBRATION_IMAGES),
        lambda model, precision: gate.check(model, precision, contract, contents, reference),
    )

    promised = promises.make(made.outputs, found.records, outcome.labels, outcome.task)

    def content(version: int) -> tuple[Manifest, dict[str, bytes]]:
        card = model_card.write(
            name,
            version,
            outcome,
            made.variants,
            {file: len(data) for file, data in made.files.items()},
            made.left_out,
            release,
            len(found.records),
            len(trained_on),
            promised.conformal,
        )
        files = {**contents, **made.files, **promised.files, CARD_FILE: card}
        manifest = Manifest(
            name=name,
            version=version,
            **dict(contract),  # exactly what the gate verified
            temperature=outcome.temperature,
            opset=OPSET,
            variants=made.variants,
            left_out=made.left_out,
            metrics=outcome.metrics,
            baseline=outcome.baseline,
            conformal=promised.conformal,
            training_images=_TRAINING_IMAGES_FILE,
            release=release,
            provenance=outcome.provenance,
            files=hashes(files),
        )
        return manifest, files

    return store.add(name, content, signer)
