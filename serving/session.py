"""One ONNX Runtime session: the bytes of a bundle's network, on a provider that really runs."""

import logging

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.bundle import Bundle
from models.errors import BundleError, LabradorError
from models.golden import TOLERANCE_CPU, TOLERANCE_CUDA, check
from models.manifest import Manifest
from serving.cores import gpus

log = logging.getLogger(__name__)

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class DeviceError(LabradorError):
    """The device that was asked for does not work."""


class Session:
    """A bundle's network, ready to run; `provider` is the one that runs it."""

    def __init__(self, bundle: Bundle, device: str, threads: int, worker: int, max_batch: int):
        """device: auto, cuda or cpu. worker: 0, 1, …; it picks the GPU. max_batch: images a run.

        Raises DeviceError if `device` is cuda and no GPU works, BundleError if the network is
        not the manifest's.
        """
        self._manifest = bundle.manifest
        self._session = _open(bundle, device, threads, worker)
        self.provider: str = self._session.get_providers()[0]
        # cuDNN searches for its algorithms again with every new shape: on CUDA there are few.
        powers = [2**n for n in range(max_batch.bit_length()) if 2**n < max_batch]
        self.buckets = [*powers, max_batch] if self.provider == CUDA else []
        _check_tensors(self._session, bundle.manifest)

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """images uint8 `[N, S, S, 3]` -> scores float32 `[N, C]`."""
        count = len(images)
        bucket = next((size for size in self.buckets if size >= count), count)
        if bucket > count:
            images = np.pad(images, [(0, bucket - count), (0, 0), (0, 0), (0, 0)])
        tensors = self._manifest.tensors
        scores: NDArray[np.float32]
        (scores,) = self._session.run([tensors.scores], {tensors.images: images})
        return scores[:count]

    def prove(self, bundle: Bundle) -> None:
        """Run every batch size once, then the golden images. Raises GateError if they differ."""
        size = bundle.manifest.preprocess.image_size_px
        for count in self.buckets or [1]:
            self.run(np.zeros((count, size, size, 3), np.uint8))
        check(bundle, self.run, TOLERANCE_CUDA if self.provider == CUDA else TOLERANCE_CPU)


def _open(bundle: Bundle, device: str, threads: int, worker: int) -> ort.InferenceSession:
    if device == "cpu" or (device == "auto" and not gpus()):
        return _cpu_session(bundle, threads)
    try:
        return _cuda_session(bundle, worker)
    except DeviceError as error:
        if device == "cuda":
            raise
        log.warning("there is a GPU, but the CPU has to do: %s", error)
        return _cpu_session(bundle, threads)


def _cpu_session(bundle: Bundle, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning threads would take the cores from the decoders and from the other workers.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(bundle.model, options, providers=[CPU])
    except Exception as error:  # ONNX Runtime's errors have no common class of their own
        raise BundleError(f"{bundle.path}: ONNX Runtime refuses the network: {error}") from error


def _cuda_session(bundle: Bundle, worker: int) -> ort.InferenceSession:
    count = gpus()
    if not count:
        raise DeviceError("the NVIDIA driver shows no GPU")
    ort.preload_dlls()  # the CUDA and cuDNN wheels; without it ONNX Runtime doesn't find them
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    # TF32 rounds to 10 bits, too coarse for the golden scores of an fp32 network.
    provider = (CUDA, {"device_id": str(worker % count), "use_tf32": "0"})
    try:
        session = ort.InferenceSession(
            bundle.model, options, providers=[provider], enable_fallback=0
        )
    except Exception as error:
        raise DeviceError(f"ONNX Runtime cannot run the network on CUDA: {error}") from error
    if session.get_providers()[0] != CUDA:
        raise DeviceError(f"asked for CUDA, ONNX Runtime uses {session.get_providers()[0]}")
    return session


def _check_tensors(session: ort.InferenceSession, manifest: Manifest) -> None:
    """Raises BundleError unless the graph's inputs and outputs are what the manifest says."""
    tensors, size, labels = (
        manifest.tensors,
        manifest.preprocess.image_size_px,
        len(manifest.labels),
    )
    inputs = {t.name: (t.type, t.shape) for t in session.get_inputs()}
    outputs = {t.name: (t.type, t.shape) for t in session.get_outputs()}
    expected = [(inputs, tensors.images, "tensor(uint8)", [size, size, 3])]
    expected.append((outputs, tensors.scores, "tensor(float)", [labels]))
    if tensors.maps is not None:
        expected.append((outputs, tensors.maps, "tensor(float)", [labels]))
    if len(inputs) != 1:
        raise BundleError(f"{manifest.name}: the network has the inputs {sorted(inputs)}, not one")
    for present, name, kind, shape in expected:
        if name not in present:
            raise BundleError(f"{manifest.name}: no tensor {name!r}; there are {sorted(present)}")
        got_kind, got_shape = present[name]
        batch, rest = got_shape[0], got_shape[1 : 1 + len(shape)]
        if got_kind != kind or isinstance(batch, int) or rest != shape:
            raise BundleError(
                f"{manifest.name}: tensor {name!r} is {got_kind} {got_shape}, not {kind}"
                f" [N, {', '.join(map(str, shape))}]"
            )
