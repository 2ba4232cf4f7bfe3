"""A run to a bundle: ONNX, reduced precision, and the gate that compares it with the network."""
