"""What a network gives for a batch of images."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Outputs(NamedTuple):
    """Of N images: scores float32 `[N, C]`; novelty float32 `[N]`, None if the network does not
    measure it; maps float32 `[N, C, h, w]`, None if it has none or they were not asked for.
    """

    scores: NDArray[np.float32]
    novelty: NDArray[np.float32] | None = None
    maps: NDArray[np.float32] | None = None

    def first(self, images: int) -> "Outputs":
        """Those of so many images, from the first on."""
        return self.at(slice(images))

    def at(self, rows: slice | list[int]) -> "Outputs":
        """Those of the images at these rows."""
        novelty = None if self.novelty is None else self.novelty[rows]
        return Outputs(self.scores[rows], novelty, None if self.maps is None else self.maps[rows])

    def each(self) -> "Iterator[Output]":
        """Those of one image after the other."""
        for row, scores in enumerate(self.scores):
            novelty = None if self.novelty is None else self.novelty[row]
            yield Output(scores, novelty, None if self.maps is None else self.maps[row])


class Output(NamedTuple):
    """Of one image: scores `[C]`, novelty, maps `[C, h, w]`."""

    scores: NDArray[np.float32]
    novelty: np.float32 | None = None
    maps: NDArray[np.float32] | None = None


Answerer = Callable[[NDArray[np.uint8]], Outputs]
"""images uint8 `[N, S, S, 3]` -> their outputs, without maps."""
