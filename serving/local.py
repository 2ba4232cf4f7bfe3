"""The store's models in this process, without a server: the implementation of `Labrador()`.

It uses the same decoder, sessions and decisions as the HTTP service.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import bundle
from models.errors import BundleError, DataError, LabradorError
from models.hardware import cpu_cores
from models.manifest import Task
from models.preprocess import decode
from models.store import Store
from serving.prediction import decision_of, entry
from serving.registry import naming, pick
from serving.session import Place, Session, open_proved
from serving.settings import Settings


class Local:
    """Loads each model, and verifies it on its golden images, when it is first used."""

    def __init__(self, settings: Settings) -> None:
        """Raises BundleError if there is no model or a model named in the settings is missing."""
        store = Store(settings.model_store)
        self._settings = settings
        paths = [store.path(reference) for reference in settings.models or store.names()]
        if not paths:
            raise BundleError(f"there is no model in {store.root}")
        self._manifests = {m.name: m for m in map(bundle.read_manifest, paths)}
        self._paths = dict(zip(self._manifests, paths, strict=True))
        self._sessions: dict[str, Session] = {}

    def answer(
        self, task: Task, images: Sequence[Path] | Path | str, parameters: dict[str, Any]
    ) -> dict[str, Any]:
        """The service's answer for these files: one result, or an object with `results`.

        parameters: those of a request; None is left out. Raises the errors of a request, and
        DataError for a file that cannot be read.
        """
        given = {name: str(value) for name, value in parameters.items() if value is not None}
        name = pick(self._manifests, task, given.pop("model", None))
        manifest, session = self._manifests[name], self._session(name)
        decide = decision_of(given, manifest)
        files = [images] if isinstance(images, Path | str) else images
        pixels = [self._pixels(Path(file), name) for file in files]
        if len(pixels) == 1 and isinstance(pixels[0], LabradorError):
            raise pixels[0]
        good = [image for image in pixels if not isinstance(image, LabradorError)]
        batches = (good[n : n + session.max_batch] for n in range(0, len(good), session.max_batch))
        scores = iter([row for batch in batches for row in session.run(np.stack(batch))])
        results = [
            {"error": image.problem()}
            if isinstance(image, LabradorError)
            else entry(next(scores), manifest, decide)
            for image in pixels
        ]
        answer = results[0] if len(results) == 1 else {"results": results}
        return {"model": naming(manifest), **answer}

    def _session(self, name: str) -> Session:
        if name not in self._sessions:
            whole = bundle.read(self._paths[name])
            place = Place(threads=cpu_cores(), worker=0)
            self._sessions[name] = open_proved(whole, self._settings, place)
        return self._sessions[name]

    def _pixels(self, file: Path, name: str) -> NDArray[np.uint8] | LabradorError:
        try:
            data = file.read_bytes()
        except OSError as error:
            return DataError(f"{file} cannot be read: {error.strerror}")
        try:
            return decode(data, self._manifests[name].preprocess, self._settings.max_megapixels)
        except LabradorError as error:
            return error
