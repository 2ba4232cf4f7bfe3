"""A run without training: the same on any CPU, with margins larger than any rounding error.

A ResNet with random weights separates colours; its head is made of each colour's mean features.
"""

from pathlib import Path

import numpy as np
import torch

from models.bundle import sha256
from models.conformal import HeldOut
from models.manifest import Baseline, Metric
from testkit import image_sets
from training import run_folder
from training.data import decoding
from training.data.record import Record
from training.data.split import Split
from training.data.targets import encode
from training.network import novelty
from training.network.resnet import Network
from training.provenance import provenance
from training.run_folder import Outcome, Run

_STEEPNESS = 3.0  # by about this much the true colour's logit is above the others


def colours(data: Path, folder: Path) -> Run:
    """A run on what `image_sets.class_folders` wrote; every second image is for validation."""
    recipe = image_sets.recipe(data)
    files = sorted(data.rglob("*.jpg"))
    records = [
        Record(
            file.relative_to(data).as_posix(),
            (file.parent.name,),
            "valid" if number % 2 == 0 else "train",
            sha256(file.read_bytes()),
        )
        for number, file in enumerate(files)
    ]
    sides = Split(
        tuple(record for record in records if record.side == "train"),
        tuple(record for record in records if record.side == "valid"),
    )
    labels = tuple(sorted(image_sets.COLOURS))
    images = decoding.served(files, recipe.preprocess).permute(0, 3, 1, 2).float()
    colour = torch.tensor([labels.index(file.parent.name) for file in files])
    torch.manual_seed(0)
    network = Network("resnet18", len(labels)).eval()
    with torch.inference_mode():
        features = network.features(images).mean((2, 3))
        means = torch.stack([features[colour == number].mean(0) for number in range(len(labels))])
        away = means - means.mean(0)
        weights = _STEEPNESS * torch.linalg.pinv(away).T
        network.resnet.fc.weight.copy_(weights)
        network.resnet.fc.bias.copy_(-weights @ means.mean(0))
    run_folder.write_start(folder, recipe, sides, provenance(recipe, sides, ("none", None, "none")))
    run_folder.write_weights(folder, network.weights())
    rows = {record: features[number].numpy() for number, record in enumerate(records)}
    known, own = (
        np.stack([rows[record] for record in side]) for side in (sides.train, sides.valid)
    )
    distance = novelty.fit(known, encode(sides.train, labels), "single")
    assert distance is not None
    run_folder.write_novelty(folder, distance, HeldOut(np.sort(distance.of(own)), None))
    (folder / run_folder.REPORT_FILE).write_text("none")
    outcome = Outcome(
        root=str(data.absolute()),
        task="single",
        arch="resnet18",
        labels=labels,
        temperature=1.0,
        thresholds=None,
        preprocess=recipe.preprocess,
        metrics=dict.fromkeys(("error", "macro_f1"), Metric(value=0, low=0, high=0)),
        baseline=Baseline(
            label_share=(0.4, 0.3, 0.3), confidence_edges=(1.0,), confidence_counts=(len(records),)
        ),
        provenance=run_folder.read_provenance(folder),
    )
    run_folder.write_end(folder, outcome)
    return run_folder.read(folder)
