"""What the output `novelty` adds to the time of a whole network.

python -m benchmarks.novelty_cost [PAIRS]

Exports a ResNet-18 and a ResNet-50 (random weights, 224 pixels, 101 labels) in fp32 and int8 as
`export` does, once with novelty and once without, and runs both on ONNX Runtime in turn, PAIRS
(200) times, the first of each pair drawn at random. Prints how much longer the one with novelty
takes: the median over the pairs, with a bootstrap's 95 % interval; and the same for two equal
networks, which shows what this machine can tell apart.
"""

import sys
import time
from collections.abc import Callable

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from scipy.stats import bootstrap

from models.hardware import cpu_cores, processor
from training.export.onnx_export import onnx_bytes, tensors_of
from training.export.reduced_precision import quantized
from training.network import novelty
from training.network.resnet import Network, Served
from training.recipe import Arch

_SIZE_PX, _LABELS, _KNOWN = 224, 101, 2000
_ARCHS: tuple[Arch, ...] = ("resnet18", "resnet50")
_BATCHES = (1, 8)
Run = Callable[[NDArray[np.uint8]], object]


def forms(arch: Arch, with_novelty: bool) -> dict[str, Run]:
    """The network on ONNX Runtime, by precision, with the outputs that the service asks for."""
    torch.manual_seed(0)
    network = Network(arch, _LABELS)
    measure = None
    if with_novelty:
        random = np.random.default_rng(0)
        features = random.random((_KNOWN, network.resnet.fc.in_features), np.float32)
        targets = np.eye(_LABELS, dtype=np.bool_)[np.arange(_KNOWN) % _LABELS]
        measure = novelty.fit(features, targets, "single")
    served = Served(network, "single", 1.0, measure).eval()
    tensors = tensors_of(served)
    model = onnx_bytes(served, _SIZE_PX)
    images = np.random.default_rng(1).integers(0, 256, (32, _SIZE_PX, _SIZE_PX, 3), np.uint8)
    outputs = [tensors.scores, *([tensors.novelty] if tensors.novelty else [])]
    return {
        precision: _run(content, tensors.images, outputs)
        for precision, content in (
            ("fp32", model),
            ("int8", quantized(model, tensors.images, images)),
        )
    }


def _run(model: bytes, images_name: str, outputs: list[str]) -> Run:
    options = ort.SessionOptions()
    options.intra_op_num_threads = cpu_cores()
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(outputs, {images_name: images})


def longer(first: Run, second: Run, images: NDArray[np.uint8], pairs: int) -> str:
    """How much longer the second takes, in percent of the first."""
    random = np.random.default_rng(2)
    both = (first, second)
    for run in both:
        run(images)
    seconds = np.empty((pairs, 2))
    for pair in seconds:
        for which in random.permutation(2).tolist():
            start = time.perf_counter()
            both[which](images)
            pair[which] = time.perf_counter() - start
    ratios = np.log(seconds[:, 1] / seconds[:, 0])
    found = bootstrap((ratios,), np.median, rng=random, method="percentile")
    middle, low, high = (100 * np.expm1([np.median(ratios), *found.confidence_interval])).tolist()
    return f"{middle:+.2f} ({low:+.2f} to {high:+.2f})"


def main(pairs: int) -> None:
    print(f"{processor()}, {cpu_cores()} cores\n")
    print(
        "| network | batch | with novelty, % longer | the same beside itself |\n|---|---|---|---|"
    )
    for arch in _ARCHS:
        plain, measuring, again = (forms(arch, which) for which in (False, True, False))
        for precision in plain:
            for batch in _BATCHES:
                images = np.zeros((batch, _SIZE_PX, _SIZE_PX, 3), np.uint8)
                cells = [
                    longer(plain[precision], other[precision], images, pairs)
                    for other in (measuring, again)
                ]
                print(f"| {arch}, {precision} | {batch} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
