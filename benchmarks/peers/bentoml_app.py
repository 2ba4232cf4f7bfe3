"""BentoML as in its tutorials: a batchable method that takes PIL images."""

import os
from typing import Any

import bentoml
import numpy as np
import onnxruntime
from PIL.Image import Image


@bentoml.service(workers=1, traffic={"timeout": 60})
class Classifier:
    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["THREADS"])
        self.session = onnxruntime.InferenceSession(
            os.environ["MODEL"], options, providers=["CPUExecutionProvider"]
        )
        self.size = self.session.get_inputs()[0].shape[1]

    @bentoml.api(batchable=True, max_batch_size=16, max_latency_ms=60_000)
    def predict(self, image: list[Image]) -> list[dict[str, Any]]:
        size = (self.size, self.size)
        images = np.stack([np.asarray(i.convert("RGB").resize(size)) for i in image])
        scores = self.session.run(["scores"], {"images": images})[0]
        return [{"label": int(row.argmax()), "probability": float(row.max())} for row in scores]
