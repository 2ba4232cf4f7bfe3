import csv
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from testkit import image_sets
from testkit.noise_images import the_same, weights_of
from training import run_folder
from training.__main__ import main
from training.arguments import parse
from training.commands.train import train
from training.fine_tuning import lr_finder
from training.fine_tuning.lr_finder import Curve, suggest

Output = pytest.CaptureFixture[str]


def check_written(out: Path, text: str, swept: str) -> None:
    picked, wrote, following = text[text.index("--lr ") :].splitlines()
    assert wrote == f"wrote {out / 'lr_find.png'}"
    assert f"the valley of the curve of {swept}" in picked
    printed = dict(re.findall(r"(minimum/10|steep|slide) (\S+?)[,)]", picked))
    printed["valley"] = picked.split()[1].rstrip(":")
    assert f" --lr {printed['valley']}" in following
    rows = list(csv.reader((out / "lr_find.csv").read_text().splitlines()))
    assert rows[0] == ["rate", "loss"]
    lrs, losses = np.array(rows[1:], float).T
    suggested = suggest(Curve(lrs, losses))
    assert {name: float(lr) for name, lr in printed.items()} == pytest.approx(suggested, rel=0.06)
    with Image.open(out / "lr_find.png") as plot:
        plot.load()
        assert plot.size == (840, 480)
        assert len(plot.convert("RGB").getcolors(10**6) or []) > 5


def test_learning_rates_for_a_new_head_from_the_command_line(
    single_data: Path, tmp_path: Path, capsys: Output
) -> None:
    options = ["--weights", "none", "--image-size", "32", "--batch-size", "8", "--device", "cpu"]
    arguments = ["lr-find", str(single_data), "--out", str(tmp_path / "out"), *options]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    check_written(tmp_path / "out", text, "the new head alone")
    line = shlex.split(text.splitlines()[-1].removeprefix("next: python -m training "))
    asked = parse(["train", str(single_data), *options], "").arguments["recipe"]
    proposed = parse(line, "").arguments["recipe"]
    assert proposed == asked.model_copy(update={"lr": proposed.lr})
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"lr_find.csv", "lr_find.png"}
    assert main(arguments) == 1
    assert "is not empty" in capsys.readouterr().err


def test_learning_rates_for_the_whole_network_of_a_run_from_the_command_line(
    single_data: Path, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of the head alone, which has a loss that can be lowered; in fewer steps."""
    monkeypatch.setattr(lr_finder, "STEPS", 40)
    recipe = image_sets.recipe(single_data, valid=0.75, epochs=0, batch_size=4)
    made = run_folder.read(train(recipe, tmp_path / "run"))
    before = weights_of(made.network())
    assert main(["lr-find", "--from", str(made.path), "--out", str(tmp_path / "out")]) == 0
    check_written(tmp_path / "out", capsys.readouterr().out, "the whole network")
    assert the_same(before, weights_of(made.network()))


@pytest.mark.parametrize("options", [["pets"], ["--seed", "3"], ["--recipe", "mine.toml"]])
def test_recipe_options_next_to_from_are_wrong_usage(capsys: Output, options: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["lr-find", "--from", "run", *options])
    assert caught.value.code == 2
    assert "--from RUN uses the run's own recipe: leave out " in capsys.readouterr().err


def test_learning_rates_from_a_folder_that_is_not_a_run_exit_with_1(
    tmp_path: Path, capsys: Output
) -> None:
    assert main(["lr-find", "--from", str(tmp_path)]) == 1
    assert "is not a complete run" in capsys.readouterr().err
