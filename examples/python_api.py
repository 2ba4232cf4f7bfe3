"""From a folder of images to a prediction, in Python: train, export, predict.

python -m examples.python_api FOLDER WORK     # FOLDER: one subfolder per label; WORK: a new folder
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models import bundle, decision
from models.decision import Prediction
from models.hardware import cpu_cores
from models.preprocess import decode
from models.store import Store
from serving.forms import open_proved
from serving.predict import find
from serving.session import Place, Session
from serving.settings import Settings
from training import run_folder
from training.commands.train import train
from training.export.export import export
from training.recipe import Recipe

NAME = "mine"


def build(recipe: Recipe, work: Path) -> Path:
    """Train by the recipe and export through the gate; returns the folder of the bundle."""
    path = train(recipe, work / "run")
    return export(run_folder.read(path), NAME, Store(work / "models"))


class Model:
    """A bundle, loaded as by the service: verified, and tested on its golden images."""

    def __init__(self, path: Path) -> None:
        """Raises BundleError if the bundle is corrupt, GateError if its scores are wrong."""
        whole = bundle.read(path)
        self.manifest = whole.manifest
        self._session: Session = open_proved(
            whole, Settings(device="cpu"), Place(threads=cpu_cores(), worker=0)
        )

    def classify(self, image: bytes, top_k: int = 1) -> Sequence[Prediction]:
        """The likeliest labels of one JPEG, PNG or WebP file, as POST /classify returns them."""
        pixels = decode(image, self.manifest.preprocess)  # uint8 [S, S, 3]
        scores = self._session.run(pixels[None])[0]  # float32 [C]
        return decision.classify(scores, self.manifest, top_k)


def main(folder: Path, work: Path, **options: Any) -> None:
    """options: of the recipe; those given neither here nor below keep their defaults."""
    chosen = {"data": str(folder), "arch": "resnet18", "image_size": 128, "epochs": 3} | options
    model = Model(build(Recipe.model_validate(chosen), work))
    file = find([folder])[0]
    for prediction in model.classify(file.read_bytes(), top_k=2):
        print(f"{file}: {prediction.label} {prediction.probability:.0%}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
