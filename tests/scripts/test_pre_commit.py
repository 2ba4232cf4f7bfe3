"""The commit hooks are those of `scripts/lint`, and download nothing."""

import yaml

from testkit.servers import ROOT


def test_the_hooks_are_those_of_the_lint_script_and_download_nothing() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (repository,) = config["repos"]
    assert repository["repo"] == "local"
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}
    hooks = [hook["entry"].removesuffix(" --force-exclude") for hook in repository["hooks"]]
    lines = (ROOT / "scripts" / "lint").read_text(encoding="utf-8").splitlines()
    tools = [line.removesuffix(" .") for line in lines if line.startswith(".venv/bin/")]
    assert hooks == tools
