"""From a run to a bundle: ONNX, reduced precision, and the gate that compares both networks."""
