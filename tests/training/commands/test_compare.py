import shutil
from pathlib import Path

import pytest

from training import run_folder
from training.__main__ import main
from training.run_folder import Run

Output = pytest.CaptureFixture[str]


@pytest.fixture
def copy(single_run: Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(single_run.path, tmp_path / "copy"))


def compared(*words: object) -> int:
    return main(["compare", *map(str, words), "--device", "cpu"])


def test_two_runs_from_the_command_line(
    single_run: Run, copy: Path, tmp_path: Path, capsys: Output
) -> None:
    out = tmp_path / "out"
    assert compared(single_run.path, copy, "--out", out) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"These images do not show whether {copy} is better than")
    error = single_run.outcome.metrics["error"].value
    assert f"  error     {error:.4f} -> {error:.4f}   +0.0000   [" in text
    assert text.endswith(f"24 images compared; wrote {out / 'comparison.html'}\n")
    assert (out / "comparison.html").read_text().startswith("<!doctype html>")


def test_the_images_of_the_first_run_may_have_moved(
    single_run: Run, copy: Path, single_data: Path, tmp_path: Path, capsys: Output
) -> None:
    moved = shutil.copytree(single_data, tmp_path / "moved")
    lost = single_run.outcome.model_copy(update={"root": str(tmp_path / "gone")})
    run_folder.write_end(copy, lost)
    assert compared(copy, single_run.path, "--out", tmp_path / "one") == 1
    assert "give its folder with --data" in capsys.readouterr().err
    options = ("--data", moved, "--out", tmp_path / "two")
    assert compared(copy, single_run.path, *options) == 0


def test_what_cannot_be_compared_is_said_in_one_line(
    single_run: Run, multi_run: Run, copy: Path, tmp_path: Path, capsys: Output
) -> None:
    for words, code, message in (
        ((single_run.path,), 2, "compare needs two runs or more"),
        ((copy, copy / ".." / "copy"), 2, "was given a run twice"),
        ((single_run.path, tmp_path / "none"), 1, "is not a complete run"),
        ((single_run.path, multi_run.path), 1, "only runs of the same task can be compared"),
        ((single_run.path, copy, "--out", copy), 1, "is not empty"),
    ):
        try:
            found = compared(*words)
        except SystemExit as left:
            found = int(left.code or 0)
        assert found == code
        last = capsys.readouterr().err.rstrip("\n").splitlines()[-1]
        assert message in last and "error: " in last


def test_no_folder_is_left_where_nothing_can_be_compared(
    single_run: Run, multi_run: Run, tmp_path: Path
) -> None:
    assert compared(single_run.path, multi_run.path, "--out", tmp_path / "out") == 1
    assert not (tmp_path / "out").exists()
