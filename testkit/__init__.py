"""Shared by tests and benchmarks: running servers, tiny models, image sets. Not installed."""
