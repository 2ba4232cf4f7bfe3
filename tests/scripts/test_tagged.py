import shutil
import subprocess
from pathlib import Path

import pytest

from testkit.servers import ROOT


@pytest.mark.parametrize(
    ("tag", "heading", "complaint"),
    [
        ("v1.2.3", "## [1.2.3] - 2026-11-22", ""),
        (
            "v1.2.4",
            "## [1.2.3] - 2026-11-22",
            "the tag is 'v1.2.4', but the version in pyproject.toml",
        ),
        (
            "1.2.3",
            "## [1.2.3] - 2026-11-22",
            "the tag is '1.2.3', but the version in pyproject.toml",
        ),
        ("v1.2.3", "## [Unreleased]", "CHANGELOG.md has no section '## [1.2.3] - DATE'"),
    ],
)
def test_a_tag_must_be_the_version_and_in_the_changelog(
    tmp_path: Path, tag: str, heading: str, complaint: str
) -> None:
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "tagged", tmp_path / "scripts")
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n{heading}\n")
    command = [str(tmp_path / "scripts" / "tagged"), tag]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == bool(complaint)
    assert complaint in done.stderr
