"""What tests and benchmarks share: running servers, tiny models, image sets. Not installed."""
