"""From image files to rows of predictions: what `predict` does on one machine and on many.

A file that the service would refuse becomes a row with an error, and affects no other.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from models import decision
from models.bundle import Bundle
from models.conformal import Novelty
from models.errors import DataError, LabradorError
from models.hardware import cpu_cores
from models.manifest import Manifest
from models.preprocess import decode
from serving.forms import open_proved
from serving.promises import seen
from serving.session import Place
from serving.settings import Settings

COLUMNS = ("path", "model", "predicted", "error")
OF_NOVELTY = ("p_value", "unknown")

Image = tuple[str, Callable[[], bytes]]
"""Its path, as its row has it, and what reads its bytes, or raises OSError."""

Pixels = NDArray[np.uint8] | LabradorError


@dataclass(frozen=True, slots=True)
class Row:
    """predicted: the most likely label, or all tags, separated by spaces; error: code and reason;
    novelty: None if the model does not measure it; scores: float32 `[C]`. An image has either an
    error or the others.
    """

    path: str
    predicted: str | None = None
    error: str | None = None
    novelty: Novelty | None = None
    scores: NDArray[np.float32] | None = None


class Scorer:
    """A bundle's network, open and verified on this machine."""

    def __init__(self, bundle: Bundle, settings: Settings) -> None:
        """Raises as `forms.open_proved`."""
        self.manifest = bundle.manifest
        self._settings = settings
        self._cores = settings.cores or cpu_cores()
        self.session = open_proved(bundle, settings, Place(threads=self._cores, worker=0))

    def rows(self, images: Iterable[Image]) -> Iterator[list[Row]]:
        """The rows of each batch, in the images' order."""
        with ThreadPoolExecutor(self._cores, "decode") as decoders:
            for batch in self._batches(images, decoders):
                yield list(self._scored(batch))

    def _batches(
        self, images: Iterable[Image], decoders: ThreadPoolExecutor
    ) -> Iterator[list[tuple[str, Pixels]]]:
        """Decoded images in order; while the model runs one batch, the next two are decoded."""
        max_batch = self.session.max_batch
        waiting: deque[tuple[str, Future[Pixels]]] = deque()
        rest = iter(images)
        while True:
            for path, read in islice(rest, 3 * max_batch - len(waiting)):
                waiting.append((path, decoders.submit(self._pixels, read)))
            if not waiting:
                return
            count = min(max_batch, len(waiting))
            taken = [waiting.popleft() for _ in range(count)]
            yield [(path, decoded.result()) for path, decoded in taken]

    def _pixels(self, read: Callable[[], bytes]) -> Pixels:
        try:
            return decode(read(), self.manifest.preprocess, self._settings.max_megapixels)
        except LabradorError as error:
            return error
        except OSError as error:
            return DataError(f"cannot be read: {error.strerror or error}")

    def _scored(self, batch: Sequence[tuple[str, Pixels]]) -> Iterator[Row]:
        images = [pixels for _, pixels in batch if not isinstance(pixels, LabradorError)]
        outputs = iter(self.session.outputs(np.stack(images)).each() if images else ())
        for path, pixels in batch:
            try:
                if isinstance(pixels, LabradorError):
                    raise pixels
                look = seen(next(outputs), self.manifest, self.session.held_out)
            except LabradorError as error:
                yield Row(path, error=f"{error.code}: {error}")
            else:
                predicted = _predicted(look.scores, self.manifest)
                yield Row(path, predicted, None, look.novelty, look.scores)


def columns(manifest: Manifest) -> list[str]:
    """Those of a table of predictions, one score per label last."""
    novelty = OF_NOVELTY if manifest.tensors.novelty is not None else ()
    return [*COLUMNS, *novelty, *manifest.labels]


def named(manifest: Manifest) -> str:
    """The model in a table of predictions."""
    return f"{manifest.name}:{manifest.version}"


def _predicted(scores: NDArray[np.float32], manifest: Manifest) -> str:
    if manifest.task == "single":
        return decision.classify(scores, manifest, top_k=1)[0].label
    return " ".join(tag.label for tag in decision.tag(scores, manifest))
