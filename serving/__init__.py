"""Runs bundles: an HTTP service on BentoML and ONNX Runtime. Never imports torch."""
