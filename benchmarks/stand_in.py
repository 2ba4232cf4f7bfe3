"""The service with a stand-in for a GPU, for `benchmarks.feeding`: it runs a batch at a time.

Batches of all workers of this machine take turns, by a lock on a file, and each takes
STAND_IN_BATCH_S + images * STAND_IN_IMAGE_S seconds. The scores are the real network's, so it must
be one of negligible cost.
"""

import fcntl
import os
import time

import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle
from models.manifest import Variant
from models.outputs import Outputs
from serving import onnx_runtime
from serving.onnx_runtime import OnnxNetwork
from serving.service import Labrador

__all__ = ["Labrador"]  # python -m bentoml serve benchmarks.stand_in:Labrador

_open_on_cpu = onnx_runtime.on_cpu


class StandIn(OnnxNetwork):
    """Batches and buckets as on CUDA."""

    def __init__(self, network: OnnxNetwork) -> None:
        self.__dict__.update(network.__dict__)
        self.on_cuda = True
        self._batch_s = float(os.environ["STAND_IN_BATCH_S"])
        self._image_s = float(os.environ["STAND_IN_IMAGE_S"])
        self._turn = os.open(os.environ["STAND_IN_LOCK"], os.O_RDWR | os.O_CREAT)

    def outputs(self, images: NDArray[np.uint8], maps: bool = False) -> Outputs:
        outputs = super().outputs(images, maps)
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        time.sleep(self._batch_s + len(images) * self._image_s)
        fcntl.flock(self._turn, fcntl.LOCK_UN)
        return outputs


def _stand_in(bundle: Bundle, variant: Variant, threads: int) -> OnnxNetwork:
    return StandIn(_open_on_cpu(bundle, variant, threads))


onnx_runtime.on_cpu = _stand_in
