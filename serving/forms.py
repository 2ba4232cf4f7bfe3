"""The forms in which this machine can run a bundle's network, and which of them serves.

With precision `auto` each form is opened, verified on the golden images and timed beside fp32.
Every worker measures for itself: forms differ by factors, and what may be noise goes to fp32.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from models.bundle import Bundle
from models.errors import BundleError, GateError
from models.manifest import Manifest, Variant
from models.variants import NAMES, Device, candidates
from serving import memory, onnx_runtime
from serving.hardware import gpus
from serving.onnx_runtime import DeviceError
from serving.session import Network, Place, Session
from serving.settings import PREFIX, Settings
from serving.timing import Comparison, Speed, beats, compare, speeds

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Form:
    """A variant, and how to open it in a runtime, on a device; `name`: in sentences."""

    name: str
    variant: Variant
    open: Callable[[], Network]


@dataclass(frozen=True)
class _Rival:
    """A form that was timed beside the first one."""

    name: str
    provider: str
    precision: str
    comparison: Comparison


def open_proved(bundle: Bundle, settings: Settings, place: Place) -> Session:
    """Open the form of the bundle's network that the settings ask for, and verify it.

    With precision `auto` that is the fastest here of those that work. Raises BundleError if the
    bundle has no such variant or it cannot be loaded, GateError if its scores are wrong, and
    DeviceError if CUDA is requested and no GPU works.
    """
    count = 0 if settings.device == "cpu" else gpus()
    if settings.device == "cuda" and not count:
        raise DeviceError("the NVIDIA driver reports no GPU")
    session = None
    if count:
        try:
            session = _open_on("cuda", bundle, settings, place, count)
        except DeviceError as error:
            if settings.device == "cuda":
                raise
            log.warning("there is a GPU, but falling back to the CPU: %s", error)
    if session is None:
        session = _open_on("cpu", bundle, settings, place)
    memory.give_back()
    return session


def _open_on(
    device: Device, bundle: Bundle, settings: Settings, place: Place, gpu_count: int = 0
) -> Session:
    if settings.precision == "auto":
        variants = candidates(bundle.manifest.variants, device)
        why = f"auto: the bundle has only fp32 for {NAMES[device]}"
    else:
        variants = [_requested(bundle.manifest, settings.precision)]
        why = f"{PREFIX}PRECISION={settings.precision}"
    if device == "cuda":
        gpu, memory_mb = place.worker % gpu_count, settings.gpu_memory_mb
        opener = partial(onnx_runtime.on_cuda, bundle, gpu=gpu, memory_mb=memory_mb)
    else:
        opener = partial(onnx_runtime.on_cpu, bundle, threads=place.threads)
    # Another runtime for the device adds its forms here; the first one is what others must beat.
    forms = [Form(variant.precision, variant, partial(opener, variant)) for variant in variants]
    session = _fastest(forms, bundle, settings.max_batch)
    session.why = session.why or why
    return session


def _requested(manifest: Manifest, precision: str) -> Variant:
    """Raises BundleError if the bundle has no variant of this precision."""
    found: dict[str, Variant] = {variant.precision: variant for variant in manifest.variants}
    if precision not in found:
        raise BundleError(
            f"{manifest.name}:{manifest.version} has no {precision}; it has {', '.join(found)}"
        )
    return found[precision]


def _fastest(forms: Sequence[Form], bundle: Bundle, max_batch: int) -> Session:
    """The first form that works unless another one beats it, with the reason if there are several.

    At most three are open at once. Raises the first one's error if none works.
    """
    first: Session | None = None
    best: Session | None = None
    won: _Rival | None = None
    rivals: list[_Rival] = []
    failed: dict[str, Exception] = {}
    for form in forms:
        try:
            session, comparison = _tried(form, bundle, max_batch, first)
        except Exception as error:  # a runtime's errors have no base class of their own
            failed[form.name] = error.with_traceback(None)  # which would hold its session
            continue
        if comparison is None:
            first = best = session
        else:
            rival = _Rival(form.name, session.provider, form.variant.precision, comparison)
            rivals.append(rival)
            if beats(comparison, won.comparison if won else None):
                best, won = session, rival
        del session  # its memory, before the next one is opened
    if first is None or best is None:
        raise next(iter(failed.values()))
    for name, why in failed.items():
        log.warning("%s: %s is left out: %s", bundle.path, name, why)
    if rivals or failed:
        best.why = f"auto: {'; '.join(_reasons(first, rivals, won, failed))}"
    if rivals:
        best.speeds = _speeds(first, rivals, won)
    return best


def _tried(
    form: Form, bundle: Bundle, max_batch: int, first: Session | None
) -> tuple[Session, Comparison | None]:
    """Open and verify the form, and time it beside the first, if there is one."""
    session = Session(form.variant, form.open(), max_batch)
    session.prove(bundle)
    if first is None:
        return session, None
    size_px = bundle.manifest.preprocess.image_size_px
    shape = (session.max_batch, size_px, size_px, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return session, compare(first.run, session.run, images)


def _reasons(
    first: Session, rivals: Sequence[_Rival], won: _Rival | None, failed: dict[str, Exception]
) -> list[str]:
    """What was measured, the winner first, and what failed."""
    name = first.variant.precision
    told = {r.name: f"{r.name} answers {r.comparison.told(name)}" for r in rivals}
    reasons = list(told.values())
    if won is not None:
        reasons.sort(key=told[won.name].__ne__)
    elif reasons:
        reasons[0] = f"nothing is clearly faster than {name}: {reasons[0]}"
    for form, error in failed.items():
        what = "failed its golden images" if isinstance(error, GateError) else "did not run"
        reasons.append(f"{form} {what} here")
    return reasons


def _speeds(first: Session, rivals: Sequence[_Rival], won: _Rival | None) -> tuple[Speed, ...]:
    """Those of all forms; the first one's as it was beside the winner, or else the last."""
    beside = (won or rivals[-1]).comparison
    found = speeds(first.provider, first.variant.precision, beside.reference)
    for rival in rivals:
        found += speeds(rival.provider, rival.precision, rival.comparison.form)
    return tuple(found)
