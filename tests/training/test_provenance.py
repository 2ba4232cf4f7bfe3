import re
import subprocess
from importlib import metadata
from pathlib import Path

from models.hardware import processor
from training.provenance import _git_commit
from training.run_folder import Run


def test_provenance_says_where_the_network_comes_from(single_run: Run) -> None:
    found = single_run.outcome.provenance
    assert found.data_fingerprint == single_run.split.fingerprint()
    assert (found.weights, found.weights_sha256, found.weights_licence) == ("none", None, "none")
    assert found.libraries["torch"] == metadata.version("torch")
    assert found.processor == processor()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found.created)
    assert found.git_commit is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", found.git_commit)


def test_the_commit_is_that_of_the_code_and_of_no_repository_around_it(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", "-C", tmp_path, *words], check=True, capture_output=True)

    file = tmp_path / "provenance.py"
    file.write_text("")
    git("init")
    git(*("-c", "user.name=a", "-c", "user.email=a"), "commit", "--allow-empty", "-m", "theirs")
    assert _git_commit(file) is None
    git("add", file.name)
    assert re.fullmatch(r"[0-9a-f]{40}-dirty", str(_git_commit(file)))
