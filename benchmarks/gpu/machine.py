"""The machine, what it can do at most, and the tests that need a GPU."""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable

import onnxruntime
import psutil
import torch

from benchmarks.gpu import card
from benchmarks.gpu.plan import Plan, Values
from models.hardware import processor
from testkit.servers import ROOT

_SIDE = {"cuda": 8192, "cpu": 256}
_REPEATS = 10


def describe(plan: Plan) -> Values:
    """Names, versions and the two ceilings: a large matrix product, and copies."""
    values: Values = {
        "processor": processor(),
        "cores": os.cpu_count() or 1,
        "memory GB": round(psutil.virtual_memory().total / 2**30),
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "ONNX Runtime": onnxruntime.__version__,
        "providers": " ".join(onnxruntime.get_available_providers()),
    }
    if plan.device == "cuda":
        gpu = torch.cuda.get_device_properties(0)
        values |= {"GPU": gpu.name, "GPU memory GB": round(gpu.total_memory / 2**30)}
        values |= {"CUDA of torch": str(torch.version.cuda)}
        values["cuDNN of torch"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
        values |= {"driver": card.nvidia_smi("driver_version")}
    side = _SIDE[plan.device]
    left, right = (torch.randn(side, side, device=plan.device).bfloat16() for _ in range(2))
    product_s = seconds(plan, lambda: left @ right)
    copy_s = seconds(plan, left.clone)
    host = torch.empty(left.shape, dtype=left.dtype, pin_memory=plan.device == "cuda")
    up_s = seconds(plan, lambda: left.copy_(host, non_blocking=True))
    values["bf16 matrix product TFLOP/s"] = 2 * side**3 / product_s / 1e12
    values["copy on the device GB/s"] = 2 * left.nbytes / copy_s / 1e9
    values["copy to the device GB/s"] = left.nbytes / up_s / 1e9
    return values


def seconds(plan: Plan, work: Callable[[], object]) -> float:
    """Of one call, on average, after some to warm up."""

    def finished() -> float:
        if plan.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    for _ in range(3):
        work()
    began = finished()
    for _ in range(_REPEATS):
        work()
    return (finished() - began) / _REPEATS


def tests(plan: Plan) -> Values:
    """The tests marked `gpu`; without a GPU they are skipped."""
    files = [file for file in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in file.read_text()]
    options = ["-m", "gpu", "-q", "-n0", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, *map(str, files)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(done.stdout, done.stderr)
    last = done.stdout.strip().splitlines()[-1].strip("= ")
    if done.returncode:
        raise RuntimeError(last)
    return {"files": len(files), "pytest": last}
