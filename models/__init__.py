"""The contract between training and serving: what a model is, from image bytes to a decision.

Imports only numpy, Pillow and pydantic, and pillow-heif once training reads a HEIC; never torch,
bentoml or onnxruntime.
"""
