"""The size, speed and accuracy of a bundle's precisions, on this CPU.

python -m benchmarks.variants BUNDLE...

BUNDLE is the folder of an exported bundle with variants. Prints size, images per second in batches
of 8 (ONNX Runtime, one thread, the precisions in turn, median of nine rounds), and what each gate
measured on the validation images.
"""

import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime

from models import bundle
from models.hardware import processor
from models.variants import differing
from training.evaluation.evaluate import HEADLINE

_BATCH, _ROUNDS = 8, 9


def main(paths: list[Path]) -> None:
    print(f"{processor()}\n")
    print("| | precision | MB | images/s | ratio | headline | largest difference | flips |")
    print("|---|---|---|---|---|---|---|---|")
    for path in paths:
        found = bundle.read(path)
        manifest = found.manifest
        size_px = manifest.preprocess.image_size_px
        images = np.random.default_rng(0).integers(0, 256, (_BATCH, size_px, size_px, 3), np.uint8)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        sessions = {
            variant.file: onnxruntime.InferenceSession(
                found.files[variant.file], options, providers=["CPUExecutionProvider"]
            )
            for variant in manifest.variants
        }
        seconds: dict[str, list[float]] = {file: [] for file in sessions}
        for _ in range(_ROUNDS):
            for file, session in sessions.items():
                began = time.perf_counter()
                session.run([manifest.tensors.scores], {manifest.tensors.images: images})
                seconds[file].append(time.perf_counter() - began)
        first = median(seconds[manifest.variants[0].file])
        for variant in manifest.variants:
            gate, own = variant.gate, median(seconds[variant.file])
            name = HEADLINE[manifest.task]
            cells = [
                manifest.name,
                variant.precision,
                f"{len(found.files[variant.file]) / 1e6:.0f}",
                f"{_BATCH / own:.0f}",
                f"{first / own:.2f}",
                f"{name} {gate.metrics[name]:.4f}",
                f"{gate.max_difference:.1e}",
                differing(gate),
            ]
            print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
