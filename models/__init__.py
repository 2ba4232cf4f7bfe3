"""The contract between training and serving: what a model is, from image bytes to a decision.

Imports only numpy, Pillow and pydantic; never torch, bentoml or onnxruntime. pillow-heif is imported
when training reads a HEIC.
"""
