"""Serves bundles: an HTTP service on BentoML and ONNX Runtime. Never imports torch."""

import os

# ONNX Runtime sends telemetry unless this is set before it is imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
