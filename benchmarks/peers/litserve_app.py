"""LitServe, as in its documentation: decode, batch, predict, unbatch, encode."""

import os
import sys
from typing import Any

import litserve
import numpy as np
import onnxruntime
from fastapi import Request
from PIL import Image


class Classifier(litserve.LitAPI):
    def setup(self, device: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["THREADS"])
        self.session = onnxruntime.InferenceSession(
            os.environ["MODEL"], options, providers=["CPUExecutionProvider"]
        )
        self.size = self.session.get_inputs()[0].shape[1]

    def decode_request(self, request: Request) -> Any:
        image = Image.open(request["image"].file).convert("RGB")
        return np.asarray(image.resize((self.size, self.size)))

    def batch(self, inputs: Any) -> Any:
        return np.stack(inputs)

    def predict(self, images: Any) -> Any:
        return self.session.run(["scores"], {"images": images})[0]

    def unbatch(self, output: Any) -> Any:
        return list(output)

    def encode_response(self, output: Any) -> Any:
        label = int(output.argmax())
        return {"label": label, "probability": float(output[label])}


if __name__ == "__main__":
    api = Classifier(max_batch_size=16, batch_timeout=0.005)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
