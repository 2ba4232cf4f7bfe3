"""Networks on ONNX Runtime and on OpenVINO, in turn; prints JSON. Runs in the peer's environment.

openvino_run.py THREADS ROUNDS SPEC NAME=FILE.onnx…: SPEC is JSON, [[runtime, name, hint], …]
"""

import json
import sys
import time
from collections.abc import Callable

import numpy as np
import onnxruntime
import openvino
import psutil

Run = Callable[[np.ndarray], np.ndarray]


def with_onnxruntime(file: str, threads: int) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["scores"], {"images": images})[0]


def with_openvino(file: str, threads: int, hint: str) -> Run:
    compiled = openvino.Core().compile_model(
        file,
        "CPU",
        {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": hint,
        },
    )
    request = compiled.create_infer_request()
    scores = compiled.output("scores")
    return lambda images: request.infer({"images": images}, share_inputs=True)[scores].copy()


def main(threads: int, rounds: int, spec: list[list[str]], files: dict[str, str]) -> None:
    size = 224
    images = np.random.default_rng(0).integers(0, 256, (8, size, size, 3), np.uint8)
    result: dict[str, dict[str, object]] = {}
    runs: dict[str, Run] = {}
    process = psutil.Process()
    for runtime, name, hint in spec:
        before, began = process.memory_info().rss, time.perf_counter()
        run = (
            with_onnxruntime(files[name], threads)
            if runtime == "onnxruntime"
            else with_openvino(files[name], threads, hint)
        )
        for batch in (1, 8):
            run(images[:batch])
        key = f"{runtime} {name} {hint}".strip()
        runs[key] = run
        result[key] = {
            "start_s": time.perf_counter() - began,
            "memory_mb": (process.memory_info().rss - before) / 1e6,
            "scores": run(images).tolist(),
            "1": [],
            "8": [],
        }
    for _ in range(rounds):
        for key, run in runs.items():
            for batch in (1, 8):
                began, count = time.perf_counter(), 0
                while time.perf_counter() - began < 1:
                    run(images[:batch])
                    count += batch
                result[key][str(batch)].append(count / (time.perf_counter() - began))
    print(json.dumps(result))


if __name__ == "__main__":
    named = dict(word.split("=", 1) for word in sys.argv[4:])
    main(int(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]), named)
