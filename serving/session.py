"""An ONNX Runtime session for a bundle's network, on an execution provider that really runs it."""

import logging
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.bundle import Bundle
from models.errors import BundleError, GateError, LabradorError
from models.golden import TOLERANCE_CPU, TOLERANCE_CUDA, check
from models.manifest import Manifest, Precision, Variant
from models.variants import FASTEST, NAMES, Device, automatic
from serving.hardware import gpus
from serving.settings import PREFIX, Settings

log = logging.getLogger(__name__)

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class DeviceError(LabradorError):
    """The requested device does not work."""


@dataclass(frozen=True)
class Place:
    """Where a worker runs its models: CPU threads per run, and its index, which selects the GPU."""

    threads: int
    worker: int


class Session:
    """One variant of a bundle's network, ready to run. `max_batch`: the largest batch; `provider`:
    the execution provider that runs it; `why`: the reason for this variant, in words.
    """

    def __init__(
        self, bundle: Bundle, variant: Variant, settings: Settings, place: Place, why: str = ""
    ):
        """Raises DeviceError if CUDA is requested and no GPU works, BundleError if the network
        does not match the manifest.
        """
        self._manifest = bundle.manifest
        self.variant = variant
        self.why = why
        self._session = _open(bundle, variant, settings, place)
        self.provider: str = self._session.get_providers()[0]
        on_cuda = self.provider == CUDA
        self.max_batch = settings.max_batch or (32 if on_cuda else 8)
        # cuDNN searches for algorithms again for every new shape: on CUDA there are few sizes.
        powers = [2**n for n in range(self.max_batch.bit_length()) if 2**n < self.max_batch]
        self.buckets = [*powers, self.max_batch] if on_cuda else []
        _check_tensors(self._session, bundle.manifest)

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """images uint8 `[N, S, S, 3]` -> scores float32 `[N, C]`."""
        return self._fetch([self._manifest.tensors.scores], images)[0]

    def run_with_maps(self, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """As `run` -> scores, and maps float32 `[N, C, h, w]`. Only if the manifest names maps."""
        tensors = self._manifest.tensors
        return self._fetch([tensors.scores, str(tensors.maps)], images)

    def _fetch(self, names: list[str], images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """These outputs of the network, one row per image each."""
        count = len(images)
        bucket = next((size for size in self.buckets if size >= count), count)
        if bucket > count:
            images = np.pad(images, [(0, bucket - count), (0, 0), (0, 0), (0, 0)])
        found = self._session.run(names, {self._manifest.tensors.images: images})
        return [rows[:count] for rows in found]

    def prove(self, bundle: Bundle) -> None:
        """Run every batch size once, then check the golden images; GateError if one fails."""
        size = bundle.manifest.preprocess.image_size_px
        for count in self.buckets or [1]:
            self.run(np.zeros((count, size, size, 3), np.uint8))
        rounding = TOLERANCE_CUDA if self.provider == CUDA else TOLERANCE_CPU
        check(bundle, self.run, max(rounding, self.variant.gate.tolerance))


def open_proved(bundle: Bundle, settings: Settings, place: Place) -> Session:
    """Open the bundle's network in the precision of the settings, and verify it.

    Raises BundleError if the bundle has no such variant, GateError if its scores are wrong, and the
    errors of `Session`. With auto, fp32 replaces a variant that fails, and the choice is that for a
    CPU where a GPU does not work.
    """
    if settings.precision != "auto":
        variant = _requested(bundle.manifest, settings.precision)
        session = Session(
            bundle, variant, settings, place, f"{PREFIX}PRECISION={settings.precision}"
        )
        session.prove(bundle)
        return session
    device: Device = "cuda" if _tries_gpu(settings) else "cpu"
    choices = automatic(bundle.manifest.variants, device)
    why = f"the bundle has no {FASTEST[device]}"
    if len(choices) > 1:
        why = f"{FASTEST[device]} passed its gate"
    for variant in choices:
        try:
            session = Session(bundle, variant, settings, place, f"auto on {NAMES[device]}: {why}")
            if device == "cuda" and session.provider == CPU:  # the GPU does not work
                on_cpu = settings.model_copy(update={"device": "cpu"})
                return open_proved(bundle, on_cpu, place)
            session.prove(bundle)
            return session
        except (BundleError, GateError) as error:
            if variant == choices[-1]:
                raise
            log.warning("%s: falling back from %s: %s", bundle.path, variant.precision, error)
            failed = "failed its golden images" if isinstance(error, GateError) else "did not load"
            why = f"{variant.precision} {failed} here"
    raise AssertionError("a bundle has a network")


def _requested(manifest: Manifest, precision: Precision) -> Variant:
    """Raises BundleError if the bundle has no variant of this precision."""
    found = {variant.precision: variant for variant in manifest.variants}
    if precision not in found:
        raise BundleError(
            f"{manifest.name}:{manifest.version} has no {precision}; it has {', '.join(found)}"
        )
    return found[precision]


def _tries_gpu(settings: Settings) -> bool:
    return settings.device == "cuda" or (settings.device == "auto" and gpus() > 0)


def _open(
    bundle: Bundle, variant: Variant, settings: Settings, place: Place
) -> ort.InferenceSession:
    if not _tries_gpu(settings):
        return _cpu_session(bundle, variant, place)
    try:
        return _cuda_session(bundle, variant, settings, place)
    except DeviceError as error:
        if settings.device == "cuda":
            raise
        log.warning("there is a GPU, but falling back to the CPU: %s", error)
        return _cpu_session(bundle, variant, place)


def _cpu_session(bundle: Bundle, variant: Variant, place: Place) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = place.threads
    options.inter_op_num_threads = 1
    # Spinning threads would take the cores away from the decoders and the other workers.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(bundle.files[variant.file], options, providers=[CPU])
    except Exception as error:  # ONNX Runtime's errors have no base class of their own
        raise BundleError(f"{bundle.path}: ONNX Runtime can't load the network: {error}") from error


def _cuda_session(
    bundle: Bundle, variant: Variant, settings: Settings, place: Place
) -> ort.InferenceSession:
    count = gpus()
    if not count:
        raise DeviceError("the NVIDIA driver reports no GPU")
    ort.preload_dlls()  # from the CUDA and cuDNN wheels; ONNX Runtime doesn't find them otherwise
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    # TF32 rounds to 10 bits, too coarse for the golden scores of an fp32 network.
    limits = {"device_id": str(place.worker % count), "use_tf32": "0"}
    if settings.gpu_memory_mb:
        limits["gpu_mem_limit"] = str(settings.gpu_memory_mb * 2**20)
    try:
        session = ort.InferenceSession(
            bundle.files[variant.file], options, providers=[(CUDA, limits)], enable_fallback=0
        )
    except Exception as error:
        raise DeviceError(f"ONNX Runtime cannot run the network on CUDA: {error}") from error
    if session.get_providers()[0] != CUDA:
        raise DeviceError(f"ONNX Runtime uses {session.get_providers()[0]} instead of CUDA")
    return session


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
