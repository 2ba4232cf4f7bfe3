"""ONNX Runtime and OpenVINO on this CPU: would a second runtime earn its place?

python -m benchmarks.runtimes WORK [ROUNDS]

Exports a ResNet-18 and a ResNet-50 (random weights, 224 pixels, 100 labels) in fp32 and int8 as
`export` does, and runs them on both runtimes in one process of the environment WORK/openvino (made
from `benchmarks/peers/openvino.txt`), in turn, ROUNDS (5) times. Prints images a second at batch 1
and 8 (median and range), the ratio to ONNX Runtime's fp32 and to the same form on ONNX Runtime, the
seconds until the first answers, the memory, and the largest difference of a score.
"""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.environment import PEERS, installed
from models.hardware import cpu_cores, processor
from training.export.onnx_export import TENSORS, onnx_bytes
from training.export.reduced_precision import quantized
from training.network.resnet import Network, Served
from training.recipe import Arch

_SIZE_PX = 224
_ARCHS: tuple[Arch, ...] = ("resnet18", "resnet50")
_SPEC = [
    ("onnxruntime", "fp32", ""),
    ("onnxruntime", "int8", ""),
    ("openvino", "fp32", "f32"),
    ("openvino", "fp32", "bf16"),
    ("openvino", "int8", "f32"),
    ("openvino", "int8", "bf16"),
]


def networks(work: Path, arch: Arch) -> dict[str, Path]:
    """The ONNX files, by precision."""
    files = {form: work / f"{arch}.{form}.onnx" for form in ("fp32", "int8")}
    if not files["int8"].exists():
        torch.manual_seed(0)
        served = Served(Network(arch, 100), "single", 1.0).eval()
        model = onnx_bytes(served, _SIZE_PX)
        images = np.random.default_rng(1).integers(0, 256, (32, _SIZE_PX, _SIZE_PX, 3), np.uint8)
        files["fp32"].write_bytes(model)
        files["int8"].write_bytes(quantized(model, TENSORS.images, images))
    return files


def main(work: Path, rounds: int) -> None:
    work.mkdir(parents=True, exist_ok=True)
    python = installed(work, "openvino") / "python"
    print(f"{processor()}, {cpu_cores()} cores\n")
    for arch in _ARCHS:
        command: list[str | Path] = [python, PEERS / "openvino_run.py"]
        command += [str(cpu_cores()), str(rounds), json.dumps(_SPEC)]
        command += [f"{form}={file}" for form, file in networks(work, arch).items()]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        seen = json.loads(done.stdout)
        print(
            f"| {arch} | batch 1 | batch 8 | to fp32 | to the same file | start, s | MB | score |"
        )
        print("|---|---|---|---|---|---|---|---|")
        exact = np.array(seen["onnxruntime fp32"]["scores"])
        for runtime, form, hint in _SPEC:
            own = seen[f"{runtime} {form} {hint}".strip()]
            cells = [
                f"{median(own[b]):.1f} ({min(own[b]):.1f} to {max(own[b]):.1f})" for b in ("1", "8")
            ]
            for other in ("onnxruntime fp32", f"onnxruntime {form}"):
                ratios = [median(own[b]) / median(seen[other][b]) for b in ("1", "8")]
                cells.append(", ".join(f"{ratio:.2f}" for ratio in ratios))
            off = np.abs(np.array(own["scores"]) - exact).max()
            cells += [f"{own['start_s']:.1f}", f"{own['memory_mb']:.0f}", f"{off:.1e}"]
            print(f"| {runtime} {form} {hint} | {' | '.join(cells)} |")
        print()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 5)
