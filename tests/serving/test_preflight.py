"""A server that cannot serve says why in one line, and exits; or waits where it is told to."""

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from models.errors import LabradorError
from serving import bentoml_internals, preflight
from serving.settings import PREFIX
from testkit import tiny_models
from testkit.in_process import Inside
from testkit.servers import ROOT, command, get
from testkit.waiting import until

Check = Callable[..., None]


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Check:
    """The check before a start, with these settings; without a port, which is BentoML's."""
    monkeypatch.setattr(bentoml_internals, "CONFIGURATION", "bentoml_moved.elsewhere")

    def check(**settings: object) -> None:
        with monkeypatch.context() as patch:
            for name, value in settings.items():
                patch.setenv(PREFIX + name.upper(), str(value))
            preflight.check()

    return check


def refusal(check: Check, **settings: object) -> str:
    with pytest.raises(LabradorError) as caught:
        check(**settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_empty_store_names_the_command_that_makes_a_model(check: Check, tmp_path: Path) -> None:
    line = refusal(check, model_store=tmp_path)
    assert f"there is no model in {tmp_path}: make one with `python -m training export" in line
    assert "LABRADOR_WAIT_FOR_MODELS=true" in line


def test_a_model_that_is_not_there_names_those_that_are(check: Check, store: Path) -> None:
    line = refusal(check, model_store=store, models="nope")
    assert f"no model nope in {store}; there are: colours, tags" in line
    assert "colours has no version 7; it has 1" in refusal(
        check, model_store=store, models="colours:7"
    )


def test_a_model_of_which_nothing_is_released_says_so(check: Check, tmp_path: Path) -> None:
    tiny_models.add(tmp_path / "store", "colours", "single")
    (tmp_path / "store" / "colours" / "RELEASED").unlink()
    line = refusal(check, model_store=tmp_path / "store")
    assert "colours has versions, but none is released" in line


def test_keys_and_urls_that_cannot_be_used_are_named(
    check: Check, tmp_path: Path, store: Path
) -> None:
    line = refusal(check, model_store=store, trust=tmp_path / "gone.pub")
    assert f"{tmp_path / 'gone.pub'} cannot be read: No such file or directory" in line
    line = refusal(check, model_store="ftp://models")
    assert "LABRADOR_MODEL_STORE=ftp://models: ftp://models is not a model store; valid:" in line


def test_a_port_in_use_is_named_with_the_option(tmp_path: Path, store: Path) -> None:
    """By a `bentoml serve` that does not start."""
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        script, environment = command(tmp_path, port, model_store=store)
        done = subprocess.run(
            script, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr
    (line,) = (line for line in done.stderr.splitlines() if "error: " in line)
    assert f"port {port} is in use by another process" in line
    assert f"--port {port + 1}" in line


def test_told_to_wait_it_starts_without_a_model(
    check: Check, inside: Callable[..., Inside], tmp_path: Path
) -> None:
    check(model_store=tmp_path, wait_for_models="true")
    running = inside(ready=False, model_store=tmp_path, wait_for_models=True)
    until(lambda: "there is no model in" in get(f"{running.url}/readyz").json()["detail"])
    assert get(f"{running.url}/readyz").status_code == 503


def test_a_folder_for_captured_images_that_cannot_be_written_to_is_named(
    check: Check, tmp_path: Path, store: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    line = refusal(check, model_store=store, capture=tmp_path / "file")
    assert f"LABRADOR_CAPTURE={tmp_path / 'file'}: File exists; give a folder that can be" in line
