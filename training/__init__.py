"""Makes bundles: from a folder of images to a fine-tuned network, exported and gated."""

import os

# ONNX Runtime reports its use to its maker unless this is set when it is imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
