import socket
import subprocess
import sys
from pathlib import Path

import pytest

from serving.__main__ import main
from serving.cluster import connection
from serving.cluster.connection import ClusterError, connected
from testkit import tiny_models
from testkit.http_stub import Quiet, answering
from testkit.servers import ROOT, free_port

Output = pytest.CaptureFixture[str]


@pytest.fixture
def command(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """predict, for one image; what follows is the value of --ray."""
    (tmp_path / "a.jpg").write_bytes(tiny_models.picture())
    monkeypatch.setenv("LABRADOR_MODEL_STORE", str(store))
    out = str(tmp_path / "out")
    return ["predict", "colours", str(tmp_path / "a.jpg"), "--out", out, "--ray"]


@pytest.mark.parametrize("library", ["ray", "pyarrow", "pandas"])
def test_without_its_libraries_the_extra_is_named(
    command: list[str], library: str, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    assert main(command) == 1
    assert capsys.readouterr().err == (
        f"error: --ray needs {library}, which is not installed: pip install '.[ray]' in Labrador's"
        " checkout\n"
    )


def test_bad_input_is_refused_before_ray_is_loaded(
    command: list[str], tmp_path: Path, capsys: Output
) -> None:
    for place, word, message in (
        (1, "pets", "no model pets"),
        (2, str(tmp_path / "gone"), "gone does not exist: give images or folders of images"),
        (2, "ftp://host", "ftp://host is no place of images; valid:"),
        (4, str(tmp_path), "has a.jpg, which is no part of predictions: give another --out"),
    ):
        assert main([*command[:place], word, *command[place + 1 :]]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and message in line
    assert not (tmp_path / "out").exists()


def test_an_address_where_nobody_answers_is_one_line(command: list[str], capsys: Output) -> None:
    address = f"127.0.0.1:{free_port()}"
    assert main([*command, address]) == 1
    assert capsys.readouterr().err == f"error: --ray {address}: no answer (Connection refused)\n"


def test_what_answers_but_is_no_cluster_is_one_line(command: list[str], capsys: Output) -> None:
    with answering(Quiet) as port:
        address = f"127.0.0.1:{port}"
        assert main([*command, address]) == 1
    expected = f"error: --ray {address}: what answers there is no Ray cluster\n"
    assert capsys.readouterr().err == expected


def test_what_takes_connections_and_says_nothing_is_one_line(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setattr(connection, "CONNECT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert main([*command, address]) == 1
    assert capsys.readouterr().err == f"error: --ray {address}: no answer (timed out)\n"


@pytest.mark.parametrize("address", ["head", "ray://head:10001", "head:", ":6379"])
def test_an_address_of_another_kind_is_told_how_it_should_be(address: str) -> None:
    with pytest.raises(ClusterError, match=f"^--ray {address}: use HOST:PORT"), connected(address):
        pass


def test_the_address_in_the_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{bound.getsockname()[1]}")
        with pytest.raises(ClusterError, match="no answer"), connected(""):
            pass


def test_without_the_option_nothing_of_ray_is_imported(command: list[str], tmp_path: Path) -> None:
    words = [*command[:4], str(tmp_path / "out.csv")]
    script = f"""
import sys
from serving.__main__ import main
assert main({words}) == 0
print({{"ray", "pandas", "pyarrow", "serving.cluster"}} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "set()", done.stderr
