"""A variant of a bundle's network, open in a runtime and ready to run."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle
from models.conformal import HeldOut, held_out
from models.golden import (
    NOVELTY_TOLERANCE_CPU,
    NOVELTY_TOLERANCE_CUDA,
    TOLERANCE_CPU,
    TOLERANCE_CUDA,
    check,
)
from models.manifest import Variant
from models.outputs import Outputs
from serving.timing import Speed


@dataclass(frozen=True)
class Place:
    """Where a worker runs its models: CPU threads per run, and its index, which selects the GPU."""

    threads: int
    worker: int


class Network(Protocol):
    """What a runtime opens; `provider` names what computes it, as the runtime calls that."""

    provider: str
    on_cuda: bool

    def outputs(self, images: NDArray[np.uint8], maps: bool = False) -> Outputs:
        """images uint8 `[N, S, S, 3]` -> what the network gives for them; maps if asked for."""


class Session:
    """One variant of a bundle's network. `max_batch`: the largest batch; `why`: the reason for this
    variant, in words; `speeds`: what it was chosen by, empty if there was nothing to choose from;
    `held_out`: what its p-values and sets of labels are promised by, None if the bundle has none.
    """

    def __init__(self, variant: Variant, network: Network, max_batch: int = 0) -> None:
        """max_batch: 0 for 32 on CUDA and 8 on a CPU."""
        self.variant = variant
        self.provider = network.provider
        self.why = ""
        self.speeds: tuple[Speed, ...] = ()
        self.held_out: HeldOut | None = None
        self._network = network
        self.max_batch = max_batch or (32 if network.on_cuda else 8)
        # cuDNN searches for algorithms again for every new shape: on CUDA there are few sizes.
        powers = [2**n for n in range(self.max_batch.bit_length()) if 2**n < self.max_batch]
        self.buckets = [*powers, self.max_batch] if network.on_cuda else []

    def outputs(self, images: NDArray[np.uint8], maps: bool = False) -> Outputs:
        """images uint8 `[N, S, S, 3]` -> what the network gives for them.

        maps: whether to fetch them; only if the manifest names them.
        """
        return self._network.outputs(self._padded(images), maps).first(len(images))

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """images uint8 `[N, S, S, 3]` -> scores float32 `[N, C]`."""
        return self.outputs(images).scores

    def _padded(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The images, and black ones up to the next size of `buckets`."""
        count = len(images)
        bucket = next((size for size in self.buckets if size >= count), count)
        if bucket == count:
            return images
        return np.pad(images, [(0, bucket - count), (0, 0), (0, 0), (0, 0)])

    def prove(self, bundle: Bundle) -> None:
        """Run every batch size once, then check the golden images; GateError if one fails.

        Raises BundleError if the held-out images' values are not what the manifest promises.
        """
        self.held_out = held_out(bundle, self.variant.precision)
        size = bundle.manifest.preprocess.image_size_px
        for count in self.buckets or [1]:
            self.run(np.zeros((count, size, size, 3), np.uint8))
        on_cuda, gate = self._network.on_cuda, self.variant.gate
        rounding = TOLERANCE_CUDA if on_cuda else TOLERANCE_CPU
        novelty = None
        if gate.novelty is not None:
            own = NOVELTY_TOLERANCE_CUDA if on_cuda else NOVELTY_TOLERANCE_CPU
            novelty = max(own, gate.novelty.tolerance)
        check(bundle, self.outputs, max(rounding, gate.tolerance), novelty)
