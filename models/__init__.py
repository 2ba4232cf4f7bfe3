"""The contract between training and serving: what a model is, from bytes to a decision.

Imports numpy, Pillow and pydantic only; never torch, bentoml or onnxruntime.
"""
