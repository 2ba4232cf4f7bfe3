"""Opens a variant of a network in ONNX Runtime, on an execution provider that really runs it."""

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.bundle import Bundle
from models.errors import BundleError, LabradorError
from models.manifest import Manifest, Variant
from models.outputs import Outputs

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class DeviceError(LabradorError):
    """The requested device does not work."""


class OnnxNetwork:
    """A network that ONNX Runtime runs; `provider`: the execution provider that computes it."""

    def __init__(self, session: ort.InferenceSession, manifest: Manifest) -> None:
        """Raises BundleError unless the graph's inputs and outputs match the manifest."""
        _check_tensors(session, manifest)
        self._session = session
        self._tensors = manifest.tensors
        self.provider: str = session.get_providers()[0]
        self.on_cuda = self.provider == CUDA

    def outputs(self, images: NDArray[np.uint8], maps: bool = False) -> Outputs:
        """images uint8 `[N, S, S, 3]` -> what the network gives for them; maps if asked for."""
        tensors = self._tensors
        wanted = {"scores": tensors.scores, "novelty": tensors.novelty}
        if maps:
            wanted["maps"] = tensors.maps
        names = {output: name for output, name in wanted.items() if name is not None}
        found = self._session.run(list(names.values()), {tensors.images: images})
        return Outputs(**dict(zip(names, found, strict=True)))


def on_cpu(bundle: Bundle, variant: Variant, threads: int) -> OnnxNetwork:
    """Raises BundleError if the variant cannot be loaded or does not match the manifest."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Spinning threads would take the cores away from the decoders and the other workers.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = ort.InferenceSession(bundle.files[variant.file], options, providers=[CPU])
    except Exception as error:  # ONNX Runtime's errors have no base class of their own
        raise BundleError(f"{bundle.path}: ONNX Runtime can't load the network: {error}") from error
    return OnnxNetwork(session, bundle.manifest)


def on_cuda(bundle: Bundle, variant: Variant, gpu: int, memory_mb: int) -> OnnxNetwork:
    """gpu: its index; memory_mb: that the network may use, 0 for no limit.

    Raises DeviceError if it does not run completely on that GPU, and BundleError as `on_cpu`.
    """
    ort.preload_dlls()  # from the CUDA and cuDNN wheels; ONNX Runtime doesn't find them otherwise
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    # TF32 rounds to 10 bits, too coarse for the golden scores of an fp32 network.
    limits = {"device_id": str(gpu), "use_tf32": "0"}
    if memory_mb:
        limits["gpu_mem_limit"] = str(memory_mb * 2**20)
    try:
        session = ort.InferenceSession(
            bundle.files[variant.file], options, providers=[(CUDA, limits)], enable_fallback=0
        )
    except Exception as error:
        raise DeviceError(f"ONNX Runtime cannot run the network on CUDA: {error}") from error
    if session.get_providers()[0] != CUDA:
        raise DeviceError(f"ONNX Runtime uses {session.get_providers()[0]} instead of CUDA")
    return OnnxNetwork(session, bundle.manifest)


def _check_tensors(session: ort.InferenceSession, manifest: Manifest) -> None:
    """Raises BundleError unless the graph's inputs and outputs match the manifest."""
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
    if tensors.novelty is not None:
        expected.append((outputs, tensors.novelty, "tensor(float)", []))
    if len(inputs) != 1:
        raise BundleError(f"{manifest.name}: the network has the inputs {sorted(inputs)}, not one")
    for present, name, kind, shape in expected:
        if name not in present:
            raise BundleError(f"{manifest.name}: no tensor {name!r}; there are {sorted(present)}")
        got_kind, got_shape = present[name]
        batch, rest = got_shape[0], got_shape[1 : 1 + len(shape)]
        several = not shape and len(got_shape) > 1  # where there should be one for each image
        if got_kind != kind or isinstance(batch, int) or rest != shape or several:
            raise BundleError(
                f"{manifest.name}: tensor {name!r} is {got_kind} {got_shape}, not {kind}"
                f" [{', '.join(map(str, ['N', *shape]))}]"
            )
