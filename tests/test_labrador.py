"""The command `labrador`: its table is that of the packages, and a wheel of it works anywhere."""

import argparse
import importlib
import os
import site
import subprocess
import sys
from pathlib import Path

import pytest

import labrador
from models import __main__ as models_main
from serving import __main__ as serving_main
from testkit import image_sets, tiny_models
from testkit.servers import ROOT, Server, free_port, get, post, wait
from training import options


def test_it_has_every_command_of_the_packages() -> None:
    for package, parser, more, elsewhere in (
        ("training", options.parser(), set(), {"rollback"}),  # one verb, that of `models`
        ("models", models_main.parser(), set(), set()),
        ("serving", serving_main.parser(), {"serve"}, set()),
    ):
        kind = argparse._SubParsersAction
        (commands,) = (action for action in parser._actions if isinstance(action, kind))
        assert {*labrador.COMMANDS[package]} == {*commands.choices, *more} - elsewhere
    verbs = [verb for verbs in labrador.COMMANDS.values() for verb in verbs]
    assert len(verbs) == len(set(verbs))


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert labrador.main(["--help"]) == 0
    printed = capsys.readouterr().out
    for verbs in labrador.COMMANDS.values():
        assert all(f"  {verb} " in printed for verb in verbs)
    assert labrador.main([]) == 2


def test_an_unknown_command_is_refused_with_the_valid_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert labrador.main(["trian"]) == 2
    assert "unknown command 'trian'; valid: inspect, lr-find, train" in capsys.readouterr().err


def test_a_missing_library_is_named_with_the_extra_that_has_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(_: str) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(importlib, "import_module", missing)
    assert labrador.main(["train"]) == 1
    assert "torch, which is not installed: pip install '.[train]'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this checkout in an environment of its own, beside the libraries of this one."""
    folder = tmp_path_factory.mktemp("wheel")
    uv: list[str | Path] = [sys.executable, "-m", "uv"]
    build = [*uv, "build", "--quiet", "--wheel", "--no-build-isolation", "--out-dir", folder, ROOT]
    subprocess.run([*build, "--python", sys.executable], check=True)
    environment = folder / "environment"
    subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, environment], check=True)
    python = environment / "bin" / "python"
    (wheel,) = folder.glob("*.whl")
    install = [*uv, "pip", "install", "--quiet", "--offline", "--no-deps", "--python", python]
    subprocess.run([*install, wheel], check=True)
    (packages,) = environment.glob("lib/*/site-packages")
    (packages / "libraries.pth").write_text("\n".join(site.getsitepackages()))
    return environment / "bin" / "labrador"


def test_a_wheel_inspects_and_serves_from_any_folder(installed: Path, tmp_path: Path) -> None:
    """Its models lie in `models/bundles` of the current folder."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "LABRADOR_MODEL_STORE")
    }
    environment["LABRADOR_DRAIN_S"] = "0"

    def run(*words: object) -> str:
        done = subprocess.run(
            [str(installed), *map(str, words)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "usage: labrador train" in run("train", "--help")
    run("inspect", image_sets.class_folders(tmp_path / "images", 2), "--out", "audit")
    assert (tmp_path / "audit" / "contact_sheet.jpg").exists()
    tiny_models.add(tmp_path / "models" / "bundles", "colours", "single")
    port, log = free_port(), tmp_path / "server.log"
    serve = [str(installed), "serve", "--port", str(port)]
    with (
        log.open("wb") as out,
        subprocess.Popen(serve, cwd=tmp_path, env=environment, stdout=out, stderr=out) as process,
    ):
        server = Server(f"http://127.0.0.1:{port}", port, process, log)
        try:
            wait(server, "readyz")
            answer = post(f"{server.url}/classify", content=tiny_models.picture()).json()
            page = [get(server.url + path) for path in ("/", "/page/page.js")]
        finally:
            process.terminate()
    assert answer["model"] == {"name": "colours", "version": "1"}
    assert [response.status_code for response in page] == [200, 200]
