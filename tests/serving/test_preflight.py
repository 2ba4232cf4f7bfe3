"""A server that cannot serve says why in one line, and exits; or waits where it is told to."""

import socket
import subprocess
from pathlib import Path

from testkit import tiny_models
from testkit.in_process import until
from testkit.servers import ROOT, command, free_port, get, serve


def refusal(folder: Path, port: int | None = None, **settings: object) -> str:
    """The one line on stderr of a `bentoml serve` that does not start."""
    script, environment = command(folder, port or free_port(), **settings)  # type: ignore[arg-type]
    done = subprocess.run(
        script, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr
    (line,) = (line for line in done.stderr.splitlines() if "error: " in line)
    return line


def test_an_empty_store_names_the_command_that_makes_a_model(tmp_path: Path) -> None:
    line = refusal(tmp_path, model_store=tmp_path)
    assert f"there is no model in {tmp_path}: make one with `python -m training export" in line
    assert "LABRADOR_WAIT_FOR_MODELS=true" in line


def test_a_model_that_is_not_there_names_those_that_are(tmp_path: Path, store: Path) -> None:
    line = refusal(tmp_path, model_store=store, models="nope")
    assert f"no model nope in {store}; there are: colours, tags" in line
    assert "colours has no version 7; it has 1" in refusal(
        tmp_path, model_store=store, models="colours:7"
    )


def test_a_model_of_which_nothing_is_released_says_so(tmp_path: Path) -> None:
    tiny_models.add(tmp_path / "store", "colours", "single")
    (tmp_path / "store" / "colours" / "RELEASED").unlink()
    line = refusal(tmp_path, model_store=tmp_path / "store")
    assert "colours has versions, but none is released" in line


def test_a_port_in_use_is_named_with_the_option(tmp_path: Path, store: Path) -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        line = refusal(tmp_path, port, model_store=store)
    assert f"port {port} is in use by another process" in line
    assert f"--port {port + 1}" in line


def test_told_to_wait_it_starts_without_a_model(tmp_path: Path) -> None:
    with serve(tmp_path, ready=False, model_store=tmp_path, wait_for_models="true") as server:
        until(lambda: "there is no model in" in get(f"{server.url}/readyz").json()["detail"])
        assert get(f"{server.url}/readyz").status_code == 503


def test_a_folder_for_captured_images_that_cannot_be_written_to_is_named(
    tmp_path: Path, store: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    line = refusal(tmp_path, model_store=store, capture=tmp_path / "file")
    assert f"LABRADOR_CAPTURE={tmp_path / 'file'}: File exists; give a folder that can be" in line
