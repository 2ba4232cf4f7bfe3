"""A session on CUDA: what it requests from ONNX Runtime, and what it does without CUDA.

`OnCuda` stands in for ONNX Runtime's session on a GPU. The test before the last opens a real one on
a GPU that computes nothing; the last needs a real GPU.
"""

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnxruntime as ort
import pytest

from models import bundle
from models.bundle import Bundle
from models.errors import GateError
from models.golden import TOLERANCE_CPU, TOLERANCE_CUDA
from models.manifest import GOLDEN_SCORES_FILE, Precision
from serving import forms
from serving.follower import Follower
from serving.forms import open_proved
from serving.hardware import gpus
from serving.observability.metrics import Metrics
from serving.onnx_runtime import CPU, CUDA, DeviceError
from serving.registry import Registry
from serving.session import Place
from serving.settings import Settings
from testkit import no_gpu, tiny_models
from testkit.servers import ROOT
from tests.serving.test_session import PLACE, Device, bundle_of, images_of, session_of


class OnCuda(ort.InferenceSession):  # type: ignore[misc]
    """Behaves like ONNX Runtime on a working GPU, but runs on the CPU, and records the requests."""

    asked: ClassVar[list[dict[str, Any]]] = []
    batches: ClassVar[list[int]] = []
    works: ClassVar[bool] = True

    def __init__(self, network: bytes, options: ort.SessionOptions, **arguments: Any) -> None:
        self.asked.append({"options": options, **arguments})
        super().__init__(network, providers=[CPU])
        self._cuda = arguments["providers"] != [CPU] and self.works

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", CPU] if self._cuda else [CPU]

    def run(self, names: list[str], images: dict[str, np.ndarray[Any, Any]]) -> list[Any]:
        self.batches.append(len(next(iter(images.values()))))
        found: list[Any] = super().run(names, images)
        return found


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch) -> type[OnCuda]:
    """Pretend that there are two working GPUs."""
    for name, value in (("asked", []), ("batches", []), ("works", True)):
        monkeypatch.setattr(OnCuda, name, value)
    monkeypatch.setattr(ort, "InferenceSession", OnCuda)
    monkeypatch.setattr(ort, "preload_dlls", lambda: OnCuda.asked.append({"preload_dlls": True}))
    monkeypatch.setattr(forms, "gpus", lambda: 2)
    return OnCuda


def test_cuda_is_requested_without_fallback_or_tf32_and_with_its_memory_limit(
    store: Path, on_cuda: type[OnCuda]
) -> None:
    whole = bundle_of(store, "colours")
    for worker, memory_mb, limits in (
        (0, 0, {"device_id": "0", "use_tf32": "0"}),
        (3, 100, {"device_id": "1", "use_tf32": "0", "gpu_mem_limit": str(100 * 2**20)}),
    ):
        settings = Settings(device="auto", gpu_memory_mb=memory_mb)
        place = Place(threads=1, worker=worker)
        assert open_proved(whole, settings, place).provider == CUDA
        first, asked = on_cuda.asked
        assert first == {"preload_dlls": True}  # otherwise the wheels' libraries are not found
        assert (asked["providers"], asked["enable_fallback"]) == (
            [("CUDAExecutionProvider", limits)],
            0,
        )
        options = asked["options"]
        assert options.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
        on_cuda.asked.clear()


def test_a_worker_s_index_selects_its_gpu(
    store: Path, on_cuda: type[OnCuda], metrics: Metrics
) -> None:
    async def load() -> None:
        settings = Settings(model_store=store, models=("tags",))
        registry = Registry(settings, metrics)
        await Follower(settings, registry, metrics, Place(threads=1, worker=3)).look()
        registry.check_ready()
        await registry.close()

    asyncio.run(load())
    ((_, limits),) = on_cuda.asked[1]["providers"]
    assert limits["device_id"] == "1"


def test_cpu_threads_are_those_of_the_place_and_do_not_spin(
    store: Path, on_cuda: type[OnCuda]
) -> None:
    whole = bundle_of(store, "colours")
    place = Place(threads=3, worker=0)
    session = open_proved(whole, Settings(device="cpu"), place)
    assert (session.provider, session.buckets) == (CPU, [])
    (asked,) = on_cuda.asked
    assert asked["providers"] == [CPU]
    options = asked["options"]
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_a_fallback_from_cuda_is_an_error_and_with_auto_a_warning(
    store: Path,
    on_cuda: type[OnCuda],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(on_cuda, "works", False)
    whole = bundle_of(store, "colours")
    reason = "ONNX Runtime uses CPUExecutionProvider instead of CUDA"
    with pytest.raises(DeviceError, match=f"^{reason}$"):
        session_of(whole, "cuda")
    assert session_of(whole, "auto").provider == CPU
    assert caplog.messages == [f"there is a GPU, but falling back to the CPU: {reason}"]
    assert caplog.records[0].name == "serving.forms"


@pytest.mark.skipif(gpus() > 0, reason="there is a GPU")
def test_a_broken_gpu_is_an_error_and_with_auto_the_cpu_is_used(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forms, "gpus", lambda: 1)
    monkeypatch.setattr(
        ort, "preload_dlls", lambda: None
    )  # it prints the libraries that it does not find
    whole = bundle_of(store, "colours")
    with pytest.raises(DeviceError, match="cannot run the network on CUDA: .+"):
        session_of(whole, "cuda")
    assert session_of(whole, "auto").provider == CPU


def test_on_cuda_batches_are_padded_to_few_sizes_which_all_run_before_the_golden_images(
    store: Path, on_cuda: type[OnCuda]
) -> None:
    whole = bundle_of(store, "colours")
    assert open_proved(whole, Settings(device="cuda"), PLACE).buckets == [1, 2, 4, 8, 16, 32]
    one = open_proved(whole, Settings(device="cuda", max_batch=1), PLACE)
    assert (one.max_batch, one.buckets) == (1, [1])
    session = open_proved(whole, Settings(device="cuda", max_batch=6), PLACE)
    assert (session.max_batch, session.buckets) == (6, [1, 2, 4, 6])
    on_cuda.batches.clear()
    for count in range(1, 7):
        images = images_of(count)
        np.testing.assert_allclose(
            session.run(images), tiny_models.reference_scores(images, "single"), atol=1e-5
        )
    assert on_cuda.batches == [1, 2, 4, 4, 6, 6]
    on_cuda.batches.clear()
    open_proved(whole, Settings(device="cuda", max_batch=32), PLACE)
    assert on_cuda.batches[:6] == [1, 2, 4, 8, 16, 32]
    assert on_cuda.batches[6:] == [16, 1]  # the ten golden images together, and the first alone
    on_cuda.batches.clear()
    session_of(whole)
    assert on_cuda.batches == [1, 10, 1]


def _off_by(whole: Bundle, difference: float) -> Bundle:
    """The bundle with its golden scores shifted by `difference`."""
    table = json.loads(whole.files[GOLDEN_SCORES_FILE])
    moved = {name: [score + difference for score in scores] for name, scores in table.items()}
    files = {**whole.files, GOLDEN_SCORES_FILE: json.dumps(moved).encode()}
    return Bundle(whole.path, whole.manifest, files)


def test_the_golden_scores_may_differ_as_the_provider_rounds_or_as_the_variants_gate_allows(
    store: Path, on_cuda: type[OnCuda]
) -> None:
    exact = bundle_of(store, "colours")
    on_cpu = on_cuda_too = _off_by(exact, TOLERANCE_CPU / 2)
    session_of(on_cpu, "cpu")
    session_of(on_cuda_too, "cuda")
    on_cuda_only = _off_by(exact, TOLERANCE_CUDA / 2)
    with pytest.raises(GateError):
        session_of(on_cuda_only, "cpu")
    session_of(on_cuda_only, "cuda")
    nowhere = _off_by(exact, TOLERANCE_CUDA * 2)
    with pytest.raises(GateError):
        session_of(nowhere, "cuda")
    gate = exact.manifest.variants[0].gate.model_copy(update={"tolerance": TOLERANCE_CUDA * 3})
    variant = exact.manifest.variants[0].model_copy(update={"gate": gate})
    manifest = exact.manifest.model_copy(update={"variants": (variant,)})
    open_proved(Bundle(nowhere.path, manifest, nowhere.files), Settings(device="cpu"), PLACE)


def _with(folder: Path, *others: Precision) -> Bundle:
    """A bundle with a slow fp32 network, and a fast one for the other precisions."""
    slow, fast = (tiny_models.network("single", slow=times) for times in (16, 0))
    whole = bundle.read(tiny_models.add(folder, "colours", "single", slow, int8=fast))
    fp32, int8 = whole.manifest.variants
    faster = [int8.model_copy(update={"precision": other}) for other in others]
    manifest = whole.manifest.model_copy(update={"variants": (fp32, *faster)})
    return Bundle(whole.path, manifest, whole.files)


def test_auto_times_fp16_only_on_cuda(tmp_path: Path, on_cuda: type[OnCuda]) -> None:
    both = _with(tmp_path, "fp16")
    for device, precision in (("auto", "fp16"), ("cuda", "fp16"), ("cpu", "fp32")):
        session = open_proved(both, Settings(device=device), PLACE)
        assert session.variant.precision == precision
        assert {speed.provider for speed in session.speeds} <= {CUDA}
    assert session.why == "auto: the bundle has only fp32 for a CPU"
    fast = open_proved(both, Settings(device="cuda"), PLACE)
    assert re.fullmatch(r"auto: fp16 answers .* at batch 32, .* at batch 1", fast.why)


def test_where_the_gpu_does_not_work_auto_chooses_as_on_a_cpu(
    tmp_path: Path,
    on_cuda: type[OnCuda],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(on_cuda, "works", False)
    session = open_proved(_with(tmp_path, "fp16", "int8"), Settings(), PLACE)
    assert (session.provider, session.variant.precision) == (CPU, "int8")
    assert re.fullmatch(r"auto: int8 answers .* at batch 8, .* at batch 1", session.why)
    (message,) = caplog.messages
    assert message.startswith("there is a GPU, but falling back to the CPU: ")


@pytest.mark.parametrize(("found", "provider"), [(0, CPU), (1, CUDA)])
def test_auto_uses_cuda_if_the_driver_reports_a_gpu(
    store: Path,
    on_cuda: type[OnCuda],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    found: int,
    provider: str,
) -> None:
    monkeypatch.setattr(forms, "gpus", lambda: found)
    whole = bundle_of(store, "colours")
    assert session_of(whole, "auto").provider == provider
    assert session_of(whole, "cpu").provider == CPU
    assert caplog.messages == []


OPENS = """
import sys
from pathlib import Path
import onnxruntime
from models import bundle
from serving.hardware import gpus
from serving.onnx_runtime import on_cuda
onnxruntime.preload_dlls = lambda: None
whole = bundle.read(Path(sys.argv[1]))
network = on_cuda(whole, whole.manifest.variants[0], gpu=0, memory_mb=512)
options = network._session.get_provider_options()[network.provider]
wanted = ("device_id", "use_tf32", "gpu_mem_limit")
print(gpus(), network.provider, *(options[name] for name in wanted))
"""


@pytest.mark.skipif(bool(no_gpu.missing()), reason=no_gpu.missing())
def test_onnx_runtime_opens_the_session_on_cuda_as_it_is_asked_to(
    store: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OPENS, bundle_of(store, "colours").path],
        cwd=ROOT,
        env=no_gpu.pretending(tmp_path / "libraries"),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"1 {CUDA} 0 0 {512 * 2**20}\n"


@pytest.mark.gpu
@pytest.mark.skipif(gpus() == 0, reason="no NVIDIA GPU")
@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_on_a_gpu_cuda_runs_and_batches_are_padded_to_buckets(store: Path, device: Device) -> None:
    whole = bundle_of(store, "colours")
    session = session_of(whole, device)
    assert (session.provider, session.buckets) == (CUDA, [1, 2, 4, 8])
    session.prove(whole)
    images = images_of(3)
    np.testing.assert_allclose(
        session.run(images), tiny_models.reference_scores(images, "single"), atol=2e-3
    )
