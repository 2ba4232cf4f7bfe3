import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from serving.__main__ import main
from testkit import terminal, tiny_models
from testkit.servers import ROOT, Server

Output = pytest.CaptureFixture[str]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    file = tmp_path / "red.jpg"
    file.write_bytes(tiny_models.picture())
    return file


def test_prediction_from_the_command_line(
    store: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setenv("LABRADOR_MODEL_STORE", str(store))
    monkeypatch.setenv("LABRADOR_DEVICE", "cpu")
    out = tmp_path / "out.csv"
    assert main(["predict", "colours:1", str(image), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"wrote {out}\n"
    assert f"{image},colours:1,red,," in out.read_text()

    bad = tmp_path / "text.jpg"
    bad.write_text("not an image")
    assert main(["predict", "colours", str(tmp_path), "--out", str(out)]) == 1
    error = capsys.readouterr().err.rstrip("\n").splitlines()[-1]
    assert error.startswith(f"error: 1 file without a prediction: {bad}: image_undecodable")

    assert main(["predict", "pets", str(image), "--out", str(out)]) == 1
    assert "error: no model pets" in capsys.readouterr().err


def test_a_terminal_shows_a_bar_of_all_images_unless_quiet(
    store: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABRADOR_MODEL_STORE", str(store))
    monkeypatch.setenv("LABRADOR_DEVICE", "cpu")
    out = tmp_path / "out.csv"
    command = ["predict", "colours:1", str(image), "--out", str(out)]
    assert "0/1 [00:00<?, ? images/s]" in terminal.written(lambda: main(command))
    out.unlink()
    text = terminal.written(lambda: main([*command, "--quiet"]))
    assert terminal.screen(text) == [f"wrote {out}", ""] and "images/s" not in text


def test_the_load_test_from_the_command_line(server: Server, image: Path, capsys: Output) -> None:
    arguments = ["bench", server.url, str(image), "--model", "tags", "--seconds", "0.5"]
    assert main([*arguments, "--clients", "1", "--rate", "10"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{server.url}/tag?model=tags, 1 image of ")
    assert "| 1 client |" in text and "| 10/s |" in text
    assert main([*arguments[:3], "--model", "pets"]) == 1
    assert capsys.readouterr().err.startswith("error: --model pets: choose one of")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("predict", "interrupted; run the same command again to resume\n"),
        ("bench", "interrupted\n"),
    ],
)
def test_only_predict_resumes_after_an_interrupt(
    command: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    def interrupted(options: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"serving.__main__._{command}", interrupted)
    assert main([command, "where", "x.jpg"]) == 130
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("option", [["--clients", "0"], ["--rate", "0"], ["--rate", "nan"]])
def test_an_invalid_load_is_wrong_usage(option: list[str], capsys: Output) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["bench", "http://localhost:1", "x.jpg", *option])
    assert caught.value.code == 2
    assert option[0] in capsys.readouterr().err


def test_help_imports_neither_a_client_nor_a_runtime() -> None:
    script = """
import sys
from serving.__main__ import main
try:
    main(["--help"])
except SystemExit:
    print("imported", sorted({"aiohttp", "onnxruntime", "bentoml", "starlette"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("imported []\n")
