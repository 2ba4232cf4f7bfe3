import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm

from testkit import terminal
from training import output
from training.__main__ import main
from training.fine_tuning import checkpoint
from training.run_folder import Run

QUICK = [
    *("--weights", "none", "--device", "cpu", "--image-size", "32", "--batch-size", "16"),
    *("--freeze-epochs", "1", "--epochs", "2", "--lr", "1e-2", "--dtype", "float32"),
]
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")
UP = "\x1b[A"  # as tqdm draws a second bar


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> Iterator[list["tqdm[Any]"]]:
    """Every bar that was shown and has ended."""
    found: list[tqdm[Any]] = []

    class Kept(tqdm):  # type: ignore[type-arg]
        def close(self) -> None:
            if not self.disable:
                found.append(self)
            super().close()

    monkeypatch.setattr(output, "tqdm", Kept)
    yield found


def masked(lines: list[str]) -> list[str]:
    """Without what differs between two runs: numbers and folders."""
    return [re.sub(r"\S*/\S*|[\d.]+|by \w+ .*", "#", line) for line in lines]


def test_a_terminal_shows_one_bar_for_all_epochs_and_then_the_same_lines_as_a_pipe(
    single_data: Path, tmp_path: Path, bars: list["tqdm[Any]"], capfd: pytest.CaptureFixture[str]
) -> None:
    train = ["train", str(single_data), *QUICK, "--out"]
    text = terminal.written(lambda: main([*train, str(tmp_path / "one")]))
    assert UP not in text
    assert re.search(r"epoch \d of 3: +\d+% \|.*\| \S+ left", text)
    whole = [bar for bar in bars if bar.bar_format]
    assert len(whole) == 1
    work = 3 * (1 + 3 + 3) + 3 * 9 / 16  # three steps an epoch, and nine images to validate
    assert whole[0].initial == 0 and whole[0].total == pytest.approx(work)
    assert whole[0].n == pytest.approx(work)
    capfd.readouterr()
    assert main([*train, str(tmp_path / "two")]) == 0
    piped = capfd.readouterr()
    assert not piped.err and not CONTROL.search(piped.out)
    assert masked(terminal.screen(text)) == masked(piped.out.split("\n"))
    assert piped.out.count("phase whole  epoch") == 2


def test_the_bar_of_a_resumed_run_begins_where_the_run_was(
    single_data: Path, tmp_path: Path, bars: list["tqdm[Any]"], monkeypatch: pytest.MonkeyPatch
) -> None:
    write, count = checkpoint.write, 0

    def stopping(*arguments: Any) -> None:
        nonlocal count
        write(*arguments)
        count += 1
        if count == 3:  # the first is of the start
            raise KeyboardInterrupt

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write", stopping)
        assert main(["train", str(single_data), *QUICK, "--out", str(out)]) == 130
    bars.clear()
    terminal.written(lambda: main(["train", "--resume", str(out)]))
    (whole,) = [bar for bar in bars if bar.bar_format]
    assert whole.initial == pytest.approx(3 * (1 + 3) + 2 * 9 / 16)
    assert whole.n == pytest.approx(whole.total)


def test_quiet_leaves_only_the_result(
    single_data: Path, tmp_path: Path, bars: list["tqdm[Any]"]
) -> None:
    command = ["train", str(single_data), *QUICK, "--quiet", "--out", str(tmp_path / "run")]
    text = terminal.written(lambda: main(command))
    assert not bars
    lines = terminal.screen(text)
    assert lines[0] == "9 validation images, value and 95 % interval:"
    assert lines[-2:] == [f"wrote {tmp_path / 'run'}; read {tmp_path / 'run' / 'report.html'}", ""]
    assert not any("phase" in line or "next:" in line for line in lines)


def test_quiet_keeps_errors(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tmp_path), "-q", "--data", str(tmp_path)]) == 1
    assert capfd.readouterr().err.startswith("error: ")


def test_other_commands_show_one_bar_after_the_other(
    single_run: Run, single_data: Path, tmp_path: Path, bars: list["tqdm[Any]"]
) -> None:
    out = str(tmp_path / "out")
    command = ["evaluate", str(single_run.path), "--data", str(single_data), "--out", out]
    text = terminal.written(lambda: main([*command, "--device", "cpu"]))
    assert UP not in text
    assert [bar.desc for bar in bars] == ["decoding", "evaluating", "evaluating"]
    assert not any("%|" in line for line in terminal.screen(text))


@pytest.mark.parametrize("silent", [False, True])
def test_a_warning_is_said_even_if_quiet(silent: bool, capfd: pytest.CaptureFixture[str]) -> None:
    with output.quiet(silent):
        output.warn("the server is away")
        output.note("a note")
    found = capfd.readouterr()
    assert found.err == "warning: the server is away\n"
    assert found.out == ("" if silent else "a note\n")


def test_quiet_ends_with_its_block_and_nothing_in_it_ends_it(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with output.quiet():
        with output.quiet(False):
            output.note("inside")
        output.note("between")
    output.note("after")
    assert capfd.readouterr().out == "after\n"


def test_a_line_above_the_bar_is_whole() -> None:
    def work() -> None:
        with output.whole(10) as bar:
            bar.begin("epoch 1 of 2")
            bar.advance(5)
            output.note("a line")
            list(output.each(range(3), "evaluating", "batches"))

    text = terminal.written(work)
    assert "epoch 1 of 2" in text
    assert terminal.screen(text) == ["a line", ""]
    assert "evaluating" not in text and UP not in text
