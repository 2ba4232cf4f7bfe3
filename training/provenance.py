"""Where a network comes from: code, libraries, processor, images, initial weights."""

import datetime
import subprocess
from importlib import metadata
from pathlib import Path

from models.hardware import processor
from models.manifest import Provenance
from training.data.split import Split
from training.recipe import Recipe

_LIBRARIES = ("torch", "torchvision", "onnx", "onnxscript", "numpy", "pillow")


def provenance(recipe: Recipe, sides: Split, weights: tuple[str, str | None, str]) -> Provenance:
    """Where a network comes from; `weights` as `pretrained.start` describes them."""
    return Provenance(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        git_commit=_git_commit(),
        recipe=recipe.model_dump(),
        data_fingerprint=sides.fingerprint(),
        weights=weights[0],
        weights_sha256=weights[1],
        weights_licence=weights[2],
        libraries={name: metadata.version(name) for name in _LIBRARIES},
        processor=processor(),
    )


def _git_commit(file: Path = Path(__file__)) -> str | None:
    """The commit of the code, marked as dirty if files differ from it; None outside git.

    Installed into an environment below somebody's repository, the code is none of that.
    """

    def git(*words: str) -> str:
        command, folder = ["git", *words], file.parent
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)
        return git("describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return None
