import re
from importlib import metadata

from models.hardware import processor
from training.run_folder import Run


def test_provenance_says_where_the_network_comes_from(single_run: Run) -> None:
    found = single_run.outcome.provenance
    assert found.data_fingerprint == single_run.split.fingerprint()
    assert (found.weights, found.weights_sha256, found.weights_licence) == ("none", None, "none")
    assert found.libraries["torch"] == metadata.version("torch")
    assert found.processor == processor()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found.created)
    assert found.git_commit is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", found.git_commit)
