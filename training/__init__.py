"""From a folder of images to a bundle: a fine-tuned network, exported and gated."""

import os

# ONNX Runtime sends telemetry unless this is set when it is imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
# OpenMP's threads spin at each barrier. Beside another busy process they would burn the time of the
# thread that they wait for: see benchmarks/neighbours.py. torch reads it when it is imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
