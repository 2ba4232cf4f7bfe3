"""The store's models in this process, without a server: the implementation of `Labrador()`.

It uses the same decoder, sessions and decisions as the HTTP service.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import BundleError, DataError, ImageMissing, LabradorError
from models.hardware import cpu_cores
from models.manifest import Manifest, Preprocess, Task
from models.preprocess import decode
from serving.forms import open_proved
from serving.prediction import answer_of, decision_of, entry
from serving.promises import promises_of, seen
from serving.registry import pick
from serving.session import Place, Session
from serving.settings import Settings


@dataclass
class _Model:
    reference: str
    manifest: Manifest
    session: Session | None = None


class Local:
    """Loads each model, and verifies it on its golden images, when it is first used."""

    def __init__(self, settings: Settings) -> None:
        """Raises BundleError if there is no model or a model named in the settings is missing."""
        self._store = store = settings.store()
        self._settings = settings
        references = settings.models or store.names()
        if not references:
            raise BundleError(f"there is no model in {store.where}")
        found = [f"{name}:{version}" for name, version in map(store.resolve, references)]
        models = [_Model(reference, store.manifest(reference)) for reference in found]
        self._models = {model.manifest.name: model for model in models}

    def answer(
        self, task: Task, images: Sequence[Path] | Path | str, parameters: dict[str, Any]
    ) -> dict[str, Any]:
        """The service's answer for these files: one result, or an object with `results`.

        parameters: those of a request; None is left out. Raises the errors of a request, and
        DataError for a file that cannot be read.
        """
        given = {name: str(value) for name, value in parameters.items() if value is not None}
        model = pick(self._models, task, given.pop("model", None))
        manifest, session = model.manifest, self._session(model)
        decide = decision_of(given, manifest)
        promises = promises_of(given, manifest, session.held_out)
        files = [images] if isinstance(images, Path | str) else images
        if not files:
            raise ImageMissing("give one image or more")
        pixels = [self._pixels(Path(file), manifest.preprocess) for file in files]
        if len(pixels) == 1 and isinstance(pixels[0], LabradorError):
            raise pixels[0]
        good = [image for image in pixels if not isinstance(image, LabradorError)]
        batches = (good[n : n + session.max_batch] for n in range(0, len(good), session.max_batch))
        looks = iter(
            [
                seen(output, manifest, session.held_out)
                for batch in batches
                for output in session.outputs(np.stack(batch)).each()
            ]
        )
        results = [
            {"error": image.problem()}
            if isinstance(image, LabradorError)
            else entry(next(looks), decide, promises)
            for image in pixels
        ]
        return answer_of(results, manifest)

    def _session(self, model: _Model) -> Session:
        if model.session is None:
            place = Place(threads=self._settings.cores or cpu_cores(), worker=0)
            model.session = open_proved(self._store.read(model.reference), self._settings, place)
        return model.session

    def _pixels(self, file: Path, preprocess: Preprocess) -> NDArray[np.uint8] | LabradorError:
        try:
            data = file.read_bytes()
        except OSError as error:
            return DataError(f"{file} cannot be read: {error.strerror}")
        try:
            return decode(data, preprocess, self._settings.max_megapixels)
        except LabradorError as error:
            return error
