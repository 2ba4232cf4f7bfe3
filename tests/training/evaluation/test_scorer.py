from pathlib import Path

import numpy as np
import pytest
import torch

from models.bundle import Bundle
from models.errors import BundleError
from training.evaluation import scorer
from training.run_folder import Run

CPU = torch.device("cpu")


def test_what_is_loaded_is_what_was_trained(
    single_run: Run, multi_run: Run, multi_bundle: Bundle
) -> None:
    for run in (single_run, multi_run):
        found = scorer.load(run, CPU)
        outcome = run.outcome
        assert (found.task, found.labels, found.thresholds, found.preprocess) == (
            outcome.task,
            outcome.labels,
            outcome.thresholds,
            outcome.preprocess,
        )
        assert found.trained_on == {record.sha256 for record in run.split.train}
        assert (found.temperature, found.provenance) == (outcome.temperature, outcome.provenance)
    found = scorer.load(multi_bundle.path, CPU)
    assert (found.labels, found.thresholds) == (run.outcome.labels, run.outcome.thresholds)
    assert found.trained_on == {record.sha256 for record in multi_run.split.train}


def test_a_folder_without_a_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a bundle"):
        scorer.load(tmp_path, CPU)


def test_a_run_and_its_bundle_look_at_the_same_places(run: Run, bundle: Bundle) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    ours, theirs = scorer.load(run, CPU), scorer.load(bundle.path, CPU)
    assert ours.maps is not None and theirs.maps is not None
    maps = ours.maps(images)
    assert maps.shape == (3, 3, 1, 1) and np.ptp(maps) > 0
    np.testing.assert_allclose(maps, theirs.maps(images), rtol=1e-3, atol=1e-3)
