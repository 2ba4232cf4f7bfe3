import csv
import io
import json
import re
import runpy
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from models import bundle
from models.bundle import Bundle
from models.store import Store
from testkit import commands, image_sets
from testkit.commands import Ask
from testkit.keys import key_pair
from testkit.object_storage import Proxy
from training import run_folder
from training.__main__ import main
from training.arguments import parse
from training.commands.export import serve_command
from training.export import export
from training.recipe import GROUPS, Recipe
from training.run_folder import Run

QUICK = [
    *("--weights", "none", "--device", "cpu", "--image-size", "32", "--batch-size", "16"),
    *("--freeze-epochs", "1", "--epochs", "0", "--lr", "1e-2"),
]
INSTEAD = "give a folder, a file (.csv, .txt, .jsonl or .parquet), oxford-pets or voc2007"

Output = pytest.CaptureFixture[str]


def one_line(output: Output) -> str:
    """The content of stderr, which must be a single line."""
    text = output.readouterr().err
    assert text.count("\n") == 1, text
    return text.rstrip("\n")


def wrong_usage(arguments: list[str], output: Output) -> str:
    """The last line that argparse prints for arguments that it, or a recipe, refuses."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    usage, _, message = output.readouterr().err.rstrip("\n").rpartition("\n")
    assert usage.startswith("usage: python -m training")
    return message


def test_training_from_the_command_line_to_metrics(
    single_data: Path, tmp_path: Path, capsys: Output
) -> None:
    out = tmp_path / "run"
    assert main(["train", str(single_data), "--out", str(out), *QUICK]) == 0
    text = capsys.readouterr().out
    assert "48 images, 3 labels, single-label: 39 for training, 9 for validation" in text
    assert f"resnet18 from weights none, on cpu -> {out}" in text
    assert "phase head  epoch 1  train_loss" in text
    assert "9 validation images, value and 95 % interval:" in text
    assert text.endswith(f"next: python -m training export {out} --name NAME\n")
    assert run_folder.read(out).outcome.labels == ("blue", "green", "red")


def test_inspection_from_the_command_line(
    single_data: Path, tmp_path: Path, capsys: Output
) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text("image_size = 32\nepochs = 7\nvalid = 0.5\n")
    out = tmp_path / "out"
    arguments = ["inspect", str(single_data), "--recipe", str(file), "--out", str(out)]
    assert main([*arguments, "--task", "multi"]) == 0
    text = capsys.readouterr().out
    assert "48 images, 3 labels, multi-label; train would use 24 for training and" in text
    assert text.endswith(f"next: python -m training train {single_data} --task multi\n")
    names = {"inspection.json", "quarantine.csv", "contact_sheet.jpg"}
    assert {found.name for found in out.iterdir()} == names
    assert main(arguments) == 1
    assert "is not empty" in one_line(capsys)


def test_the_separator_of_labels_reaches_inspect_train_and_evaluate(
    tmp_path: Path, capsys: Output
) -> None:
    table = image_sets.table(tmp_path / "data", 24)
    table.write_text(table.read_text().replace(" ", ";"))
    arguments = [str(table), "--separator", ";"]
    out = tmp_path / "run"
    assert main(["inspect", *arguments, "--out", str(tmp_path / "audit")]) == 0
    text = capsys.readouterr().out
    assert "24 images, 3 labels, multi-label" in text
    assert text.endswith(f"next: python -m training train {table} --separator ';'\n")
    balanced = ["--balance", "root", "--out", str(out)]
    assert main(["train", *arguments, *QUICK, *balanced]) == 0
    assert json.loads((out / "recipe.json").read_text())["balance"] == "root"
    evaluation = ["--data", *arguments, "--device", "cpu", "--out", str(tmp_path / "evaluation")]
    assert main(["evaluate", str(out), *evaluation]) == 0
    labels = run_folder.read(out).outcome.labels
    assert labels == ("blue", "green", "red")


def test_suspect_labels_from_the_command_line(
    single_data: Path, tmp_path: Path, capsys: Output
) -> None:
    options = ["--weights", "none", "--device", "cpu", "--image-size", "32"]
    arguments = ["inspect", str(single_data), *options, "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        main(arguments)
    assert "--weights is used by inspect with --labels only" in capsys.readouterr().err
    assert main([*arguments, "--labels"]) == 0
    listed = tmp_path / "out" / "suspects.csv"
    assert listed.exists() and (tmp_path / "out" / "suspects.html").exists()
    assert f"--correct {listed} (take every" in capsys.readouterr().out


def test_a_list_of_corrections_that_is_missing_is_refused(
    single_data: Path, capsys: Output
) -> None:
    with pytest.raises(SystemExit):
        main(["train", str(single_data), "--correct", "gone.csv"])
    assert "--correct gone.csv does not exist" in capsys.readouterr().err


def test_a_recipe_file_is_used_and_flags_override_it(
    single_data: Path, tmp_path: Path, capsys: Output
) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(
        'weights = "none"\nimage_size = 32\nepochs = 0\nbatch_size = 8\nseed = 5\nlr = 1e-2\n'
    )
    out = tmp_path / "run"
    arguments = ["train", str(single_data), "--recipe", str(file), "--out", str(out)]
    assert main([*arguments, "--seed", "6", "--device", "cpu"]) == 0
    recipe = json.loads((out / "recipe.json").read_text())
    assert (recipe["epochs"], recipe["batch_size"], recipe["seed"]) == (0, 8, 6)
    assert "9 for validation" in capsys.readouterr().out


def test_every_option_of_a_recipe_is_a_flag(capsys: Output) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["train", "--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for name in Recipe.model_fields.keys() - {"data"}:
        assert f" --{name.replace('_', '-')} " in text
    for listed in ("--epochs INT ", "--lr TEXT ", "--flip FLOAT ", "--task {single,multi} "):
        assert listed in text
    assert "None" not in text
    assert {"data", *(name for group in GROUPS.values() for name in group)} == set(
        Recipe.model_fields
    )
    assert [text.index(f" {heading}: ") for heading in GROUPS] == sorted(
        text.index(f" {heading}: ") for heading in GROUPS
    )


def help_of(command: list[str], output: Output) -> str:
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    return output.readouterr().out


def test_help_names_every_command_and_each_has_its_own_help(capsys: Output) -> None:
    listed = re.findall(r"^    ([a-z-]+) ", help_of([], capsys), re.MULTILINE)
    verbs = ("inspect", "train", "lr-find", "evaluate", "compare", "export", "release", "rollback")
    assert listed == list(verbs)
    texts = [help_of([command], capsys) for command in listed]
    for command, text in zip(listed, texts, strict=True):
        assert text.startswith(f"usage: python -m training {command} [-h]")
    options = [set(re.findall(r"--[a-z-]+", text)) for text in texts]
    assert {"--margin", "--allow-label", "--force"} <= options[-2] and "--to" in options[-1]
    usages = [" ".join(text.partition("\n\n")[0].split()) for text in texts]
    needed = ["DATA [DATA ...]", "[DATA ...]", "[DATA ...]", "RUN|BUNDLE", "RUN [RUN ...]"]
    needed += ["RUN", "RUN", "NAME"]
    for usage, last in zip(usages, needed, strict=True):
        assert usage.endswith(f" {last}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--arch", "vgg16"], "arch='vgg16': Input should be 'resnet18', 'resnet34'"),
        (["--epochs", "many"], "epochs='many': Input should be a valid integer"),
        (["--lr", "0"], "lr='0': use a positive number, STEM:HEAD"),
        (["--weights", "missing.pth"], "--weights missing.pth is neither imagenet, none nor"),
        (["--recipe", "missing.toml"], "missing.toml cannot be read as TOML"),
        (["--imagesize", "64"], "unknown option --imagesize; did you mean --image-size?"),
        (["--momentum", "0.9"], "--momentum; python -m training train --help lists the valid"),
        (["more", "pets"], "unexpected: more pets"),
        (["--new-labels", "emu"], "--new-labels is used by train with --correct only"),
        (["--cache", "gpu", "--device", "cpu"], "--cache gpu with --device cpu: use auto, memory"),
    ],
)
def test_wrong_usage_of_train_exits_with_2_and_gives_the_valid_values(
    single_data: Path, tmp_path: Path, capsys: Output, arguments: list[str], message: str
) -> None:
    out = tmp_path / "run"
    found = wrong_usage(["train", str(single_data), "--out", str(out), *arguments], capsys)
    assert found.startswith("python -m training")
    assert message in found
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("evaluate RUN --data DATA --device gpu", "device='gpu': Input should be 'auto', 'cuda'"),
        ("evaluate RUN --data DATA --separator=", "separator='': String should have at least 1"),
        ("compare RUN OTHER --device gpu", "device='gpu': Input should be 'auto', 'cuda'"),
        ("release RUN --name pets --device gpu", "device='gpu': Input should be 'auto', 'cuda'"),
    ],
)
def test_an_option_of_a_recipe_is_checked_in_every_command_that_has_it(
    words: str,
    message: str,
    single_run: Run,
    multi_run: Run,
    single_data: Path,
    tmp_path: Path,
    capsys: Output,
) -> None:
    places = {"RUN": single_run.path, "OTHER": multi_run.path, "DATA": single_data}
    arguments = [str(places.get(word, word)) for word in words.split()]
    store = ["--store", str(tmp_path)] if "release" in words else []
    assert message in wrong_usage([*arguments, *store], capsys)


def test_an_unknown_key_in_a_file_lists_the_valid_ones(tmp_path: Path, capsys: Output) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text("epoch = 3\n")
    message = wrong_usage(["train", "pets", "--recipe", str(file)], capsys)
    assert (
        "unknown option epoch; valid: data, pattern, images, separator, task, valid, seed"
        in message
    )


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fit"],
        ["train"],
        ["lr-find"],
        ["evaluate", "run"],
        ["export", "run"],
        ["export", "--name", "x"],
        ["release", "run"],
        ["release", "--name", "x"],
        ["rollback"],
    ],
)
def test_a_command_without_what_it_needs_is_wrong_usage(
    arguments: list[str], capsys: Output
) -> None:
    wrong_usage(arguments, capsys)


def test_missing_data_exits_with_1_and_one_line(tmp_path: Path, capsys: Output) -> None:
    assert main(["train", str(tmp_path / "gone"), "--out", str(tmp_path / "run"), *QUICK]) == 1
    expected = f"error: {tmp_path / 'gone'} does not exist: {INSTEAD}"
    assert one_line(capsys) == expected


def test_a_folder_in_use_exits_with_1_and_stays_untouched(
    single_data: Path, tmp_path: Path, capsys: Output
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["train", str(single_data), "--out", str(tmp_path), *QUICK]) == 1
    assert "is not empty; give another folder with --out" in one_line(capsys)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_a_corrupt_image_exits_with_1_and_is_named(tmp_path: Path, capsys: Output) -> None:
    folder = image_sets.class_folders(tmp_path / "data", 3)
    (folder / "red" / "001.jpg").write_bytes(b"\xff\xd8\xff torn")
    assert main(["train", str(folder), "--out", str(tmp_path / "run"), *QUICK]) == 1
    message = one_line(capsys)
    assert message.startswith("error: 1 image cannot be used: ")
    assert str(folder / "red" / "001.jpg") in message


def test_an_unreadable_folder_exits_with_1_and_one_line(
    tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", unreadable)
    assert main(["train", str(tmp_path), *QUICK]) == 1
    assert "Permission denied" in one_line(capsys)


def test_an_interruption_exits_with_130(
    tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(**arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.commands.train.train", interrupted)
    assert main(["train", str(tmp_path)]) == 130
    assert one_line(capsys) == "interrupted"


def test_evaluation_from_the_command_line(
    multi_run: Run, multi_data: Path, tmp_path: Path, capsys: Output
) -> None:
    out = tmp_path / "metrics"
    arguments = ["evaluate", str(multi_run.path), "--data", str(multi_data), "--device", "cpu"]
    assert main([*arguments, "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("25 images, without 25 that it was trained on;")
    files = ("metrics.json", "predictions.csv", "report.html")
    assert text.endswith(f"wrote {', '.join(str(out / file) for file in files)}\n")
    assert all((out / file).stat().st_size for file in files)
    assert json.loads((out / "metrics.json").read_text())["images"] == 25
    assert main([*arguments, "--out", str(out)]) == 1
    assert "is not empty" in one_line(capsys)


@pytest.mark.parametrize("kind", ["run", "bundle"])
def test_strangers_are_counted_shown_and_listed(
    kind: str,
    single_run: Run,
    single_bundle: Bundle,
    single_data: Path,
    tmp_path: Path,
    capsys: Output,
) -> None:
    """One of them is a training image, which is left out."""
    folder = tmp_path / "strangers"
    (folder / "inside").mkdir(parents=True)
    for number in range(6):
        image_sets.photo(number).save(folder / "inside" / f"{number}.png")
    known = single_data / single_run.split.train[0].file
    shutil.copy(known, folder / "known.jpg")
    subject = single_run.path if kind == "run" else single_bundle.path
    out = tmp_path / "metrics"
    arguments = ["evaluate", str(subject), "--data", str(single_data), "--device", "cpu"]
    assert main([*arguments, "--strangers", str(folder), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^6 strangers, without 1 that it was trained on: 0\.0% \[0\.0%, ", text, re.M)
    assert " of them unknown at alpha 0.01\n" in text
    assert str(out / "strangers.csv") in text
    with (out / "strangers.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert {row["path"] for row in rows} == {f"inside/{number}.png" for number in range(6)}
    p_values = [float(row["p_value"]) for row in rows]
    assert p_values == sorted(p_values, reverse=True)
    assert min(p_values) == 1 / 25  # stranger than all 24 validation images
    page = (out / "report.html").read_text()
    assert 'id="unknown"' in page and "inside/3.png" in page and "of the strangers" in page


def test_what_strangers_cannot_be_is_refused_in_one_line(
    multi_run: Run, multi_data: Path, tmp_path: Path, capsys: Output
) -> None:
    arguments = ["evaluate", str(multi_run.path), "--data", str(multi_data), "--device", "cpu"]
    message = wrong_usage([*arguments, "--strangers", str(tmp_path / "gone")], capsys)
    assert f"--strangers {tmp_path / 'gone'} is not a folder" in message
    (tmp_path / "empty").mkdir()
    assert main([*arguments, "--strangers", str(tmp_path / "empty")]) == 1
    assert "has no images that" in one_line(capsys)
    old = shutil.copytree(multi_run.path, tmp_path / "old")
    (old / "novelty.safetensors").unlink()
    (old / "conformal.json").unlink()
    assert main(["evaluate", str(old), *arguments[2:], "--strangers", str(tmp_path / "empty")]) == 1
    assert "has no novelty, which --strangers is about" in one_line(capsys)


def test_a_model_is_evaluated_by_its_name_in_the_store_that_the_environment_names(
    store: Store,
    multi_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Output,
) -> None:
    monkeypatch.setenv("LABRADOR_MODEL_STORE", str(store.root))
    arguments = ["--data", str(multi_data), "--device", "cpu"]
    assert main(["evaluate", "stripes:1", *arguments, "--out", str(tmp_path / "metrics")]) == 0
    assert capsys.readouterr().out.startswith("25 images, without 25 that it was trained on;")
    assert main(["evaluate", "shapes", *arguments]) == 1
    assert f"no model shapes in {store.root}" in one_line(capsys)


def test_a_corrupt_run_is_not_evaluated(multi_data: Path, tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "run.json").write_text("{}")
    assert main(["evaluate", str(tmp_path), "--data", str(multi_data)]) == 1
    assert "run.json is corrupt" in one_line(capsys)


def test_evaluation_can_rename_labels_and_leave_images_out(
    multi_run: Run, multi_data: Path, tmp_path: Path, capsys: Output
) -> None:
    rows = [line.split(",") for line in multi_data.read_text().splitlines()]
    renamed = [[name, labels.replace("red", "rouge")] for name, labels in rows]
    table = image_sets.write_csv(tmp_path / "labels.csv", renamed)
    images = ["--images", str(multi_data.parent / "images"), "--device", "cpu"]
    arguments = ["evaluate", str(multi_run.path), "--data", str(table), *images]
    assert main([*arguments, "--out", str(tmp_path / "refused")]) == 1
    assert "the model has no label 'rouge'" in one_line(capsys)
    names = image_sets.write_csv(tmp_path / "names.csv", [["from", "to"], ["rouge", "red"]])
    left_out = [record.file for record in multi_run.split.valid][:2]
    quarantine = image_sets.write_csv(
        tmp_path / "q.csv", [["file", "reason"], *([file, "blurred"] for file in left_out)]
    )
    options = ["--relabel", str(names), "--quarantine", str(quarantine)]
    assert main([*arguments, *options, "--out", str(tmp_path / "metrics")]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"2 images left out, as listed in {quarantine}\n23 images, without 25")


def test_evaluation_reads_the_data_for_the_model_s_task(
    multi_run: Run, single_data: Path, tmp_path: Path
) -> None:
    """Class folders of three colours, for a model of stripes."""
    arguments = ["evaluate", str(multi_run.path), "--data", str(single_data), "--device", "cpu"]
    assert main([*arguments, "--out", str(tmp_path / "metrics")]) == 0
    assert "map" in json.loads((tmp_path / "metrics" / "metrics.json").read_text())


def test_a_single_label_model_is_not_evaluated_on_images_with_several_labels(
    single_run: Run, multi_data: Path, tmp_path: Path, capsys: Output
) -> None:
    """Only one of the labels would count."""
    arguments = ["evaluate", str(single_run.path), "--data", str(multi_data), "--device", "cpu"]
    assert main([*arguments, "--out", str(tmp_path / "metrics")]) == 1
    assert "a single-label task needs exactly one per image" in one_line(capsys)


def test_evaluation_of_a_folder_that_is_not_a_model_exits_with_1(
    single_data: Path, tmp_path: Path, capsys: Output
) -> None:
    assert main(["evaluate", str(tmp_path), "--data", str(single_data)]) == 1
    assert "is not a bundle" in one_line(capsys)
    assert main(["evaluate", "no-such:1", "--data", str(single_data)]) == 1
    assert "no model no-such in" in one_line(capsys)


def test_export_from_the_command_line(
    single_run: Run,
    single_bundle: Bundle,
    tmp_path: Path,
    capsys: Output,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export, "onnx_bytes", lambda network, size: single_bundle.model)
    arguments = ["export", str(single_run.path), "--name", "pets", "--store", str(tmp_path)]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert text.startswith("gate of fp32 passed: scores differ by ")
    kept = bundle.read(Store(tmp_path).path("pets")).manifest.variants[0].gate
    assert kept.own_metrics is not None
    assert f"(tolerance 0.0001), 0 of {len(single_run.split.valid) + 11} decisions differ, " in text
    assert f" differ, error {kept.own_metrics['error'].value:.4f} [" in text
    assert "will serve: fp32 on a CPU, fp32 on CUDA; LABRADOR_PRECISION chooses another\n" in text
    assert (
        "unknown: 24 validation images cannot promise alpha 0.01, so nothing is called unknown"
        " unless alpha is 0.04 or more; 99 images would be enough\n"
    ) in text
    assert f"wrote {tmp_path / 'pets' / '1'}; version 1 of pets is released" in text
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert f"wrote {tmp_path / 'pets' / '2'}; version 1 of pets is released" in text
    assert bundle.read(Store(tmp_path).path("pets:2")).manifest.version == 2
    of_store = f"LABRADOR_MODEL_STORE={tmp_path}"
    assert text.endswith(f"\nnext: {of_store} LABRADOR_MODELS=pets:2 labrador serve, or release\n")


def test_a_store_that_is_served_by_default_needs_no_setting(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (
        serve_command("colours", 1, store) == f"LABRADOR_MODEL_STORE={store.where} labrador serve"
    )
    monkeypatch.setenv("LABRADOR_MODEL_STORE", str(store.where))
    assert serve_command("colours", 1, store) == "labrador serve"


@pytest.mark.parametrize("command", ["export", "release"])
def test_every_form_is_made_unless_some_are_asked_for(
    command: str, single_run: Run, tmp_path: Path
) -> None:
    typed = [command, str(single_run.path), "--name", "pets", "--store", str(tmp_path)]
    asked = ["--precision", "fp32", "--precision", "int8"]
    assert parse(typed, "").arguments["precisions"] is None
    assert parse([*typed, *asked], "").arguments["precisions"] == ["fp32", "int8"]


@pytest.mark.parametrize("command", ["export", "release", "compare"])
def test_a_run_s_images_are_found_from_any_folder(
    command: str, single_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    """DATA as it was typed may be relative to another one."""
    run = shutil.copytree(single_run.path, tmp_path / "run")
    outcome = json.loads((run / "run.json").read_text())
    outcome["provenance"]["recipe"]["data"] = "colours"
    (run / "run.json").write_text(json.dumps(outcome))
    monkeypatch.chdir(tmp_path)
    named = ["--name", "pets", "--store", "store"]
    more = [str(single_run.path)] if command == "compare" else named
    assert parse([command, "run", *more], "").function == command
    assert main([command, "run", *more, "--data", "gone"]) == 1
    assert one_line(capsys) == f"error: gone does not exist: {INSTEAD}"


def test_release_and_rollback_from_the_command_line(
    single_run: Run,
    single_bundle: Bundle,
    tmp_path: Path,
    capsys: Output,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export, "onnx_bytes", lambda network, size: single_bundle.model)
    where = ["--store", str(tmp_path)]
    arguments = ["release", str(single_run.path), "--name", "pets", "--device", "cpu", *where]
    assert main(arguments) == 0
    assert "version 1 of pets is released" in capsys.readouterr().out
    assert main(arguments) == 1
    output = capsys.readouterr()
    assert output.err.startswith("error: refused: too few images to tell: +0.00 points of error")
    assert output.err.count("\n") == 1 and "**refused: too few images" in output.out
    assert main([*arguments, "--margin", "0.4"]) == 0
    assert main([*arguments, "--allow-label", "red", "--allow-label", "blue", "--force"]) == 0
    text = capsys.readouterr().out
    assert "version 3 of pets is released\nwill serve: fp32 on a CPU" in text
    assert text.endswith(f"\nnext: LABRADOR_MODEL_STORE={tmp_path} labrador serve\n")
    decision = bundle.read(Store(tmp_path).path("pets:3")).manifest.release
    assert decision is not None
    assert decision.allowed_labels == ("blue", "red") and decision.forced
    assert main(["rollback", "pets", *where]) == 0
    assert capsys.readouterr().out == "version 2 of pets is released, in place of version 3\n"
    assert main(["rollback", "pets", "--to", "1", *where]) == 0
    assert main(["rollback", "pets", *where]) == 1
    assert "pets:1 replaced no version: choose one with --to" in one_line(capsys)


def test_a_signed_release_to_a_bucket_from_the_command_line(
    single_run: Run,
    single_bundle: Bundle,
    s3: Proxy,
    tmp_path: Path,
    capsys: Output,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export, "onnx_bytes", lambda network, size: single_bundle.model)
    private = key_pair(tmp_path / "key")
    run, where = str(single_run.path), ["--name", "pets", "--store", s3.url]
    assert main(["export", run, *where, "--sign", str(private)]) == 0
    assert (
        f"wrote {s3.url}/pets/1, signed; version 1 of pets is released" in capsys.readouterr().out
    )
    assert main(["export", run, *where]) == 0
    assert f"wrote {s3.url}/pets/2; version 1 of pets is released" in capsys.readouterr().out
    monkeypatch.setenv("LABRADOR_TRUST", str(private.with_suffix(".pub")))
    again = ["release", run, *where, "--device", "cpu", "--margin", "0.4"]
    assert main([*again, "--sign", str(private)]) == 0
    trusting = Store(s3.url, private.with_suffix(".pub"))
    assert trusting.read("pets").manifest.version == 3
    trusting.release("pets", 2)
    assert main(again) == 1  # it is compared with a version that nobody has signed
    assert "is not signed: it has no model.sig" in one_line(capsys)
    assert trusting.versions("pets") == [1, 2, 3]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--sign", "gone"], 1, "gone cannot be read: No such file or directory"),
        (["--store", "ftp://models"], 2, "ftp://models is not a model store; valid: a folder, s3:"),
    ],
)
def test_a_key_or_a_store_that_cannot_be_used_is_refused_before_the_work(
    options: list[str], code: int, message: str, single_run: Run, tmp_path: Path, capsys: Output
) -> None:
    command = ["export", str(single_run.path), "--name", "pets", "--store", str(tmp_path)]
    if code == 1:
        assert main([*command, *options]) == code
    else:
        with pytest.raises(SystemExit, match=str(code)):
            main([*command, *options])
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_export_of_a_folder_that_is_not_a_run_exits_with_1(tmp_path: Path, capsys: Output) -> None:
    assert main(["export", str(tmp_path), "--name", "pets", "--store", str(tmp_path)]) == 1
    assert "is not a complete run" in one_line(capsys)


@pytest.mark.filterwarnings("ignore:'training.__main__' found in sys.modules:RuntimeWarning")
def test_the_module_runs_as_a_program(
    tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `python -m training` does, but for its imports, which take seconds."""
    monkeypatch.setattr(sys, "argv", ["training", "train", str(tmp_path / "gone")])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("training", run_name="__main__")
    assert caught.value.code == 1
    assert one_line(capsys) == f"error: {tmp_path / 'gone'} does not exist: {INSTEAD}"


def test_the_output_in_a_pipe_is_not_held_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The console script calls main(), which `python -m training` does too."""
    pipe = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdout", pipe)
    assert main(["train", str(tmp_path / "gone")]) == 1
    assert pipe.line_buffering


# These must start fast: importing torch alone takes seconds.

SLOW_TO_IMPORT = {"torch", "torchvision", "onnx", "onnxruntime", "scipy", "matplotlib"}


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    with commands.asked("training.__main__") as ask:
        yield ask


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("--help", 0, "usage: python -m training [-h] COMMAND"),
        ("train --help", 0, "usage: python -m training train [-h]"),
        ("release --help", 0, "usage: python -m training release [-h]"),
        ("train DATA --arch resnet19", 2, "arch='resnet19': Input should be 'resnet18'"),
        ("inspect DATA --image-size 31", 2, "image_size='31': Input should be"),
        ("train gone", 1, "gone does not exist"),
        ("train DATA --weights gone.pth", 2, "--weights gone.pth is neither imagenet, none nor"),
        ("train DATA --out DATA", 1, "is not empty; give another folder with --out"),
        ("train --resume gone", 1, "gone is not a run"),
        ("lr-find --from gone", 1, "gone is not a complete run"),
        ("evaluate no-such:1 --data DATA", 1, "no model no-such in"),
        ("evaluate RUN --data gone", 1, "gone does not exist"),
        ("export gone --name pets --store STORE", 1, "gone is not a complete run"),
        ("export RUN --name Pets --store STORE", 1, "'Pets' is not a valid name"),
        ("release RUN --name Pets --store STORE", 1, "'Pets' is not a valid name"),
        ("release RUN --name pets --margin 1 --store STORE", 1, "--margin 1.0: use a share above"),
        ("rollback pets --store STORE", 1, "no model pets in STORE; there are: none"),
    ],
)
def test_help_and_wrong_usage_never_import_torch(
    words: str,
    code: int,
    message: str,
    single_run: Run,
    single_data: Path,
    tmp_path: Path,
    ask: Ask,
) -> None:
    places = {"RUN": single_run.path, "DATA": single_data, "STORE": tmp_path}
    found = ask([str(places.get(word, word)) for word in words.split()])
    assert message.replace("STORE", str(tmp_path)) in " ".join(found.printed.split())
    assert found.code == code
    assert "training" in found.imported and not SLOW_TO_IMPORT & found.imported
