"""What runs on the cluster's machines: one session each, in an actor or to choose the form."""

import pickle
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from models.bundle import Bundle
from models.manifest import Precision
from serving.cluster.connection import ClusterError
from serving.cluster.pieces import Piece
from serving.scoring import Row, Scorer
from serving.settings import Settings

ATTEMPTS = 5  # at a piece; machines that are lost count too
_ROWS = 1024  # of a table, at least but for the last: of a large row group they come in several


@dataclass(frozen=True)
class Job:
    """What every machine is told. keeper: an actor that has the bundle; folder: the driver's own,
    which relative paths are relative to; local: the sources of images that are paths.
    """

    keeper: Any
    settings: Settings
    folder: Path
    local: Sequence[Path]

    def open(self) -> Scorer:
        """Raises as `Scorer`, and ClusterError if this machine does not have the images."""
        import ray

        for path in self.local:
            if not (self.folder / path).exists():
                raise ClusterError(
                    f"{self.folder / path} is not there on {platform.node()}: give a folder that"
                    " all machines of the cluster share, or a URL as s3://BUCKET/PREFIX"
                )
        bundle: Bundle = ray.get(ray.get(self.keeper.bundle.remote()))
        return Scorer(bundle, self.settings)


def chosen(job: Job) -> Precision:
    """The form of the network that serves here: all actors then use it, and answer alike."""
    return job.open().session.variant.precision


class Actor:
    """Scores pieces. The network is opened, and verified on the golden images, by the first."""

    def __init__(self, job: Job) -> None:
        self._job = job

    @cached_property
    def _scorer(self) -> Scorer:
        # Not in the constructor: of an error there Ray passes on only the text.
        return self._job.open()

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> Iterator[Any]:
        """batch: one `Piece`, pickled, and its number. Yields tables of `parts.table`."""
        from serving.cluster.parts import table

        (content,), (number,) = batch["piece"], batch["number"]
        piece: Piece = pickle.loads(content)
        waiting: list[Row] = []
        for rows in self._rows(piece, int(number)):
            waiting += rows
            if len(waiting) >= _ROWS:
                yield table(waiting, self._scorer.manifest)
                waiting = []
        if waiting:
            yield table(waiting, self._scorer.manifest)

    def _rows(self, piece: Piece, number: int) -> Iterator[list[Row]]:
        """Those of a piece; of one at which actors die again and again, errors.

        Ray itself would try for ever, at an image that kills the process or needs all memory.
        """
        import ray

        images = piece.images(self._job.folder)
        if ray.get(self._job.keeper.attempt.remote(number)) <= ATTEMPTS:
            yield from self._scorer.rows(images)
        else:
            error = ClusterError(f"{ATTEMPTS} processes died at this image, or at one beside it")
            yield [Row(path, error=f"{error.code}: {error}") for path, _ in images]
