"""The workflow file is valid, and its commands are those of the project."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from testkit.json_schema import without_iris
from testkit.servers import ROOT

FOLDER = ROOT / ".github"
DEVICES = {"cpu", "cuda"}
WORKFLOWS = sorted(FOLDER.glob("workflows/*.yml"))
WORKFLOW = FOLDER / "workflows" / "release.yml"


def check(file: Path, schema: str = "github-workflows") -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema"]
    command += [f"vendor.{schema}", str(file)]
    with without_iris():  # neither schema has any
        return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_every_workflow_is_valid_and_pins_its_actions_by_hash(file: Path) -> None:
    done = check(file)
    assert done.returncode == 0, done.stdout
    used = re.findall(r"uses: (.*)", file.read_text())
    assert used
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action)
    assert yaml.safe_load(file.read_text())["permissions"] == {"contents": "read"}


def test_dependabot_s_file_is_valid_and_follows_the_actions() -> None:
    done = check(FOLDER / "dependabot.yml", "dependabot")
    assert done.returncode == 0, done.stdout
    updates = yaml.safe_load((FOLDER / "dependabot.yml").read_text())["updates"]
    assert {"github-actions", "pip"} == {each["package-ecosystem"] for each in updates}


def test_the_pins_are_audited_without_a_push() -> None:
    workflow = yaml.safe_load((FOLDER / "workflows" / "audit.yml").read_text())
    assert workflow[True]["schedule"]  # YAML 1.1 reads `on` as true
    assert [step.get("run") for step in workflow["jobs"]["audit"]["steps"]][-1] == "scripts/audit"


def test_a_wrong_workflow_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(WORKFLOW.read_text().replace("runs-on:", "runson:"))
    assert check(wrong).returncode == 1


def test_its_scripts_exist_and_only_a_tag_is_published_where_there_is_a_registry() -> None:
    workflow = yaml.safe_load(WORKFLOW.read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    commands = "\n".join(step.get("run", "") for step in steps)
    called = set(re.findall(r"scripts/\w+", commands))
    assert {"scripts/lint", "scripts/test", "scripts/audit", "scripts/release"} <= called
    assert all(os.access(ROOT / script, os.X_OK) for script in called)
    writing = {name: job for name, job in workflow["jobs"].items() if "permissions" in job}
    assert writing.keys() == {"publish"}
    assert writing["publish"]["if"] == "github.ref_type == 'tag' && vars.REGISTRY != ''"
    assert {"release", "image"} <= set(writing["publish"]["needs"])


def test_both_images_are_built_tested_listed_and_published_on_one_base() -> None:
    jobs = yaml.safe_load(WORKFLOW.read_text())["jobs"]
    assert {each["device"] for each in jobs["image"]["strategy"]["matrix"]["include"]} == DEVICES
    assert set(jobs["publish"]["strategy"]["matrix"]["device"]) == DEVICES
    for job in ("image", "publish"):
        assert jobs[job]["env"]["BASE"] == "${{ needs.base.outputs.image }}"
        commands = [step["run"] for step in jobs[job]["steps"] if "run" in step]
        (built,) = (line for line in commands if "scripts/container" in line)
        assert '--base "$BASE"' in built and "--stand-in" not in built
    signed = [step["with"] for step in jobs["publish"]["steps"] if "attest" in step.get("uses", "")]
    assert len({(each["subject-name"], each["subject-digest"]) for each in signed}) == 1
    assert [each.get("sbom-path") for each in signed] == [
        None,
        "dist/sbom-${{ matrix.device }}.json",
    ]
