"""A small valid manifest and the files of its bundle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.bundle import hashes, write
from models.manifest import Manifest

FILES: dict[str, bytes] = {
    "model.onnx": b"the network",
    "golden/baseline.jpg": b"an image",
    "golden/scores.json": json.dumps({"golden/baseline.jpg": [0.7, 0.2, 0.1]}).encode(),
    "report.html": b"<p>fine</p>",
    "training_images.txt": b"\n",
}


def values(files: Mapping[str, bytes] = FILES, **changes: Any) -> dict[str, Any]:
    """A manifest as parsed from JSON, before validation."""
    loss = {"value": 0, "low": -0.01, "high": 0.01}
    gate = {
        "tolerance": 1e-4,
        "max_difference": 3e-6,
        "flips": 0,
        "images": 268,
        "loss": loss,
        "separation_loss": loss,
        "metrics": {"error": 0.1},
        "tags_loss": None,
        "probability_change": {"value": 0.002, "low": 0.001, "high": 0.004},
        "decisions": 279,
        "own_metrics": {"error": {"value": 0.1, "low": 0.08, "high": 0.12}},
    }
    return {
        "schema_version": 1,
        "name": "pets",
        "version": 1,
        "task": "single",
        "labels": ["cat", "dog", "emu"],
        "thresholds": None,
        "temperature": 1.25,
        "preprocess": {"image_size_px": 24, "crop_fraction": 0.875},
        "tensors": {"images": "images", "scores": "scores", "maps": None},
        "opset": 20,
        "variants": [{"file": "model.onnx", "precision": "fp32", "gate": gate}],
        "left_out": {"int8": "too few images"},
        "metrics": {"error": {"value": 0.1, "low": 0.08, "high": 0.12}},
        "baseline": {
            "label_share": [0.5, 0.3, 0.2],
            "confidence_edges": [0.5, 1.0],
            "confidence_counts": [3, 7],
        },
        "training_images": "training_images.txt",
        "release": None,
        "provenance": {
            "created": "2030-01-01T00:00:00Z",
            "git_commit": None,
            "recipe": {"lr": 0.003, "epochs": 3},
            "data_fingerprint": "0" * 64,
            "weights": "none",
            "weights_sha256": None,
            "weights_licence": "none",
            "libraries": {"numpy": "2"},
            "processor": "AMD EPYC",
        },
        "files": hashes(files),
    } | changes


def multi(**changes: Any) -> dict[str, Any]:
    """The changes that make the manifest a multi-label one."""
    return {"task": "multi", "thresholds": [0.5, 0.25, 0.75]} | changes


def manifest(files: Mapping[str, bytes] = FILES, **changes: Any) -> Manifest:
    return Manifest.model_validate(values(files, **changes))


def written(path: Path, files: Mapping[str, bytes] = FILES, **changes: Any) -> Path:
    """Write a bundle and return its folder."""
    write(path, manifest(files, **changes), files)
    return path
