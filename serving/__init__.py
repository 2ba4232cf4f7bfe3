"""Runs bundles: an HTTP service on BentoML and ONNX Runtime. Never imports torch."""

import os

# ONNX Runtime reports its use to its maker unless this is set when it is imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
