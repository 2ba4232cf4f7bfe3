"""From a folder of images to a bundle: a fine-tuned network, exported and gated."""

import os

# ONNX Runtime sends telemetry unless this is set when it is imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
