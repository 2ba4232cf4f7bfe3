"""FastAPI and ONNX Runtime, as in their documentation: an upload, a plain function, a dict."""

import io
import os
from typing import Annotated, Any

import numpy as np
import onnxruntime
from fastapi import FastAPI, File
from PIL import Image

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(os.environ["THREADS"])
session = onnxruntime.InferenceSession(
    os.environ["MODEL"], options, providers=["CPUExecutionProvider"]
)
size = session.get_inputs()[0].shape[1]
app = FastAPI()


@app.post("/predict")
def predict(image: Annotated[bytes, File()]) -> dict[str, Any]:
    pixels = Image.open(io.BytesIO(image)).convert("RGB").resize((size, size))
    scores = session.run(["scores"], {"images": np.asarray(pixels)[None]})[0][0]
    label = int(scores.argmax())
    return {"label": label, "probability": float(scores[label])}
