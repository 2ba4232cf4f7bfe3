"""Bundles that earlier code wrote, one of each schema, are verified and served by today's code."""

from collections.abc import Callable

import numpy as np
import pytest

from models import bundle
from models.preprocess import decode
from models.store import Store
from testkit import schema_bundle, tiny_models
from testkit.in_process import Inside
from testkit.servers import post

STORE = Store(schema_bundle.STORE)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_todays_service_verifies_and_serves_kept_bundles(
    precision: str, inside: Callable[..., Inside]
) -> None:
    running = inside(model_store=STORE.root, precision=precision)  # ready: golden images agree
    image = tiny_models.picture((30, 60, 220))
    for name in STORE.names():
        manifest = bundle.read_manifest(STORE.path(name))
        answer = post(f"{running.url}/tag?model={name}&threshold=0", content=image).json()
        assert answer["model"] == {"name": name, "version": "1"}
        pixels = decode(image, manifest.preprocess)[np.newaxis]
        (scores,) = tiny_models.reference_scores(pixels, "multi")
        expected = dict(zip(manifest.labels, scores.tolist(), strict=True))
        found = {tag["label"]: tag["probability"] for tag in answer["tags"]}
        assert found == pytest.approx(expected, abs=1e-4)
