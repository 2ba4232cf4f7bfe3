"""The workflow file is valid, and its commands are those of the project."""

import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

from testkit.servers import ROOT

WORKFLOW = ROOT / ".github" / "workflows" / "release.yml"


def check(file: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema"]
    command += ["vendor.github-workflows", str(file)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_workflow_is_valid(tmp_path: Path) -> None:
    done = check(WORKFLOW)
    assert done.returncode == 0, done.stdout
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(WORKFLOW.read_text().replace("runs-on:", "runson:"))
    assert check(wrong).returncode == 1


def test_its_scripts_exist_and_nothing_is_published() -> None:
    workflow = yaml.safe_load(WORKFLOW.read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    commands = "\n".join(step.get("run", "") for step in steps)
    called = set(re.findall(r"scripts/\w+", commands))
    assert {"scripts/lint", "scripts/test", "scripts/audit", "scripts/release"} <= called
    assert all(os.access(ROOT / script, os.X_OK) for script in called)
    assert workflow["permissions"] == {"contents": "read"}
    assert {step["uses"] for step in steps if "uses" in step} == {"actions/checkout@v4"}
