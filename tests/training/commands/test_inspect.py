import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from models.errors import DataError, RunError
from testkit import image_sets
from testkit.captures import capture
from testkit.image_sets import photo, write_csv
from testkit.odd_images import encoded
from training import run_folder
from training.commands.evaluate import evaluate
from training.commands.inspect import inspect
from training.commands.train import train
from training.data import file_scan

Output = pytest.CaptureFixture[str]
QUICK = {"freeze_epochs": 1, "epochs": 0}


def look(data: Path, out: Path, **changes: Any) -> dict[str, Any]:
    """The content of `inspection.json`."""
    inspect(image_sets.recipe(data, **changes), out)
    found: dict[str, Any] = json.loads((out / "inspection.json").read_text())
    return found


def listed(out: Path) -> dict[str, str]:
    with (out / "quarantine.csv").open(newline="") as text:
        header, *rows = csv.reader(text)
    assert header == ["file", "reason"]
    return dict(rows)


def photos(folder: Path, seed: int, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        photo(seed + number).save(folder / f"{number:02}.jpg", quality=95)


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """One of each fault that class folders can have."""
    data = tmp_path / "data"
    photos(data / "cat", 0, 12)
    photos(data / "dog", 100, 12)
    photos(data / "red fox", 200, 3)
    photos(data / "Redfox", 300, 11)
    (data / "bird").mkdir()
    for name in ("IMG_2.gif", "bird/notes.txt", "dog/Raw.CR2", "dog/Thumbs.db", ".DS_Store"):
        (data / name).write_text("not an image of DATA")
    shutil.copy(data / "cat" / "00.jpg", data / "stray.jpg")
    shutil.copy(data / "cat" / "00.jpg", data / "cat" / "copy.jpg")
    shutil.copy(data / "cat" / "02.jpg", data / "dog" / "twin.jpg")
    photo(1).resize((60, 45)).save(data / "cat" / "small.jpg", quality=60)
    photo(103).save(data / "cat" / "lookalike.webp")
    whole = (data / "cat" / "03.jpg").read_bytes()
    (data / "cat" / "torn.jpg").write_bytes(whole[: len(whole) // 2])
    (data / "dog" / "empty.jpg").write_bytes(b"")
    (data / "dog" / "moving.jpg").write_bytes(encoded(photo(400), "GIF"))
    (data / "dog" / "screenshot.jpg").write_bytes(encoded(photo(401), "PNG"))
    (data / "dog" / "phone.jpg").write_bytes(encoded(photo(402), "JPEG", 6))
    (data / "dog" / "grey.png").write_bytes(encoded(photo(403, (30, 200)).convert("L"), "PNG"))
    return data


def test_every_planted_fault_is_found_and_named(planted: Path, tmp_path: Path) -> None:
    found = look(planted, tmp_path / "out")
    assert found["images"] == 48
    assert found["labels"] == {"dog": 18, "cat": 16, "Redfox": 11, "red fox": 3}
    bad = {
        "cat/torn.jpg": "bad: the JPEG image is damaged or incomplete",
        "dog/empty.jpg": "bad: the image has no bytes",
        "dog/moving.jpg": "bad: the image is GIF; use JPEG, PNG, WebP, HEIC or AVIF",
    }
    assert found["quarantine"] == bad == listed(tmp_path / "out")
    assert found["extensions_that_lie"] == {"dog/screenshot.jpg": "PNG"}
    assert found["turned"] == {"dog/phone.jpg": 6}
    assert found["formats"] == {"JPEG": 42, "PNG": 2, "WebP": 1}
    assert found["modes"] == {"RGB": 44, "L": 1}
    assert found["widths_px"] == [30, 96, 96]
    assert found["heights_px"] == [45, 72, 200]
    assert found["few"] == ["red fox"]
    assert found["duplicates"] == [["cat/00.jpg", "cat/copy.jpg"], ["cat/02.jpg", "dog/twin.jpg"]]
    assert found["duplicates_of_other_labels"] == [["cat/02.jpg", "dog/twin.jpg"]]
    near = [["cat/01.jpg", "cat/small.jpg"], ["cat/lookalike.webp", "dog/03.jpg"]]
    assert found["near_duplicates"] == near
    assert found["near_duplicates_of_other_labels"] == near[1:]
    assert (found["leaks"], found["near_leaks"]) == ([], [])
    assert found["unused"] == ["IMG_2.gif", "bird/notes.txt", "dog/Raw.CR2", "stray.jpg"]
    assert (found["strays"], found["notes"]) == (["stray.jpg"], [])
    empty, spelled = found["refused"]
    assert f"1 class folder of {planted} without images" in empty
    assert "'Redfox', 'red fox' differ only by case or spaces" in spelled
    assert found["training_images"] + found["validation_images"] == 45


def test_the_report_names_what_was_found(planted: Path, tmp_path: Path, capsys: Output) -> None:
    inspect(image_sets.recipe(planted), tmp_path / "out")
    text = capsys.readouterr().out
    for expected in (
        f"{planted}: 48 images, 4 labels, single-label; train would use ",
        "  1 label with fewer than 10 images:\n    red fox\n",
        "  4 files not used (1 .gif, 1 .txt, 1 .cr2, 1 .jpg), among them 1 image next to the class"
        " folders, without a label:\n    IMG_2.gif\n    bird/notes.txt\n    dog/Raw.CR2\n",
        "  3 images cannot be used:\n    cat/torn.jpg: the JPEG image is damaged or incomplete\n",
        "  1 wrong extension; read by content:\n    dog/screenshot.jpg is PNG\n",
        "    dog/phone.jpg (on its side)\n",
        "  formats: 42 JPEG, 2 PNG, 1 WebP; modes: 44 RGB, 1 L\n",
        "  2 groups of exact duplicates:\n    cat/00.jpg, cat/copy.jpg\n",
        "  1 of them with different labels:\n    cat/02.jpg, dog/twin.jpg\n",
        "  2 groups of near-duplicates:\n    cat/01.jpg, cat/small.jpg\n",
        "train would refuse this:\n",
        "  presized    uint8 [1, 40, 40, 3]",
        "next: fix what train would refuse, and inspect again\n",
    ):
        assert expected in text, expected


def test_the_fixes_that_the_report_asks_for_make_the_data_trainable(
    planted: Path, tmp_path: Path, capsys: Output
) -> None:
    """From the first inspection to a run: quarantine, new names, and no faults left."""
    with pytest.raises(DataError, match="1 class folder of .*: bird; add images"):
        train(image_sets.recipe(planted, **QUICK), tmp_path / "run")
    shutil.rmtree(planted / "bird")
    with pytest.raises(DataError, match=r"'Redfox', 'red fox' .*--relabel"):
        train(image_sets.recipe(planted, **QUICK), tmp_path / "run")
    names = [["from", "to"], ["Redfox", "fox"], ["red fox", "fox"]]
    relabel = str(write_csv(tmp_path / "names.csv", names))
    with pytest.raises(DataError, match=r"3 images cannot be used: .*torn.jpg: .*inspect"):
        train(image_sets.recipe(planted, relabel=relabel, **QUICK), tmp_path / "run")
    found = look(planted, tmp_path / "first", relabel=relabel)
    assert (found["refused"], found["labels"]["fox"]) == ([], 14)
    quarantine = str(tmp_path / "first" / "quarantine.csv")
    command = f"next: python -m training train {planted} --relabel {relabel}"
    assert f"{command} --quarantine {quarantine}\n" in capsys.readouterr().out
    fixed = {"relabel": relabel, "quarantine": quarantine}
    again = look(planted, tmp_path / "second", **fixed)
    assert (again["images"], again["quarantine"]) == (45, {})
    assert listed(tmp_path / "second") == listed(tmp_path / "first")
    path = train(image_sets.recipe(planted, **fixed, **QUICK), tmp_path / "run")
    assert f"3 images left out, as listed in {quarantine}" in capsys.readouterr().out
    assert (path / "quarantine.csv").read_bytes() == Path(quarantine).read_bytes()
    sides = run_folder.read(path).split
    assert len(sides.records) == 45
    assert (len(sides.train), len(sides.valid)) == (
        again["training_images"],
        again["validation_images"],
    )
    side_of = {record.file: record.side for record in sides.records}
    for group in again["duplicates"] + again["near_duplicates"]:
        assert len({side_of[file] for file in group}) == 1


@pytest.fixture
def divided(tmp_path: Path) -> Path:
    """A given split with one of each fault that a CSV can have."""
    folder = tmp_path / "data"
    photos(folder, 0, 10)
    shutil.copy(folder / "00.jpg", folder / "leak.jpg")
    photo(1).resize((60, 45)).save(folder / "near.jpg", quality=60)
    rows = [
        [f"{number:02}.jpg", "cat dog" if number % 2 else "cat", "False"] for number in range(8)
    ]
    rows += [[f"{number:02}.jpg", "", "True"] for number in range(8, 10)]
    rows += [["leak.jpg", "cat", "True"], ["near.jpg", "dog cat", "True"]]
    return write_csv(folder / "labels.csv", [["fname", "labels", "is_valid"], *rows])


def test_leaks_across_a_given_split_are_found_and_the_training_copy_is_listed(
    divided: Path, tmp_path: Path, capsys: Output
) -> None:
    with pytest.raises(DataError, match="1 image on both sides of the given split: 00.jpg, leak"):
        train(image_sets.recipe(divided, **QUICK), tmp_path / "run")
    found = look(divided, tmp_path / "out")
    assert found["leaks"] == [["00.jpg", "leak.jpg"]]
    assert found["near_leaks"] == [["01.jpg", "near.jpg"]]
    assert listed(tmp_path / "out") == {
        "00.jpg": "leak: the same bytes as the validation image leak.jpg"
    }
    assert (found["training_images"], found["validation_images"], found["unlabelled"]) == (7, 4, 2)
    text = capsys.readouterr().out
    assert "1 leak: the same bytes on both sides of the given split:\n    00.jpg, leak" in text
    assert "  2 images without a label\n" in text
    quarantine = str(tmp_path / "out" / "quarantine.csv")
    train(image_sets.recipe(divided, quarantine=quarantine, **QUICK), tmp_path / "run")
    assert (
        "1 group of near-duplicates on both sides of the split, such as 01.jpg and"
        " near.jpg: see inspect"
    ) in capsys.readouterr().out


def test_leaks_of_test_images_set_aside_are_found_too(tmp_path: Path, capsys: Output) -> None:
    """train reads no test image, so it does not see them; evaluate leaves out the same bytes."""
    data = tmp_path / "data"
    for number, place in enumerate(("train/cat", "train/dog", "val/cat", "test/dog")):
        photos(data / place, 100 * number, 4)
    shutil.copy(data / "train" / "cat" / "00.jpg", data / "test" / "dog" / "leak.jpg")
    shutil.copy(data / "train" / "cat" / "01.jpg", data / "val" / "cat" / "leak.jpg")
    photo(102).resize((60, 45)).save(data / "test" / "dog" / "near.jpg", quality=60)
    (data / "test" / "dog" / "torn.jpg").write_bytes(b"no image")
    found = look(data, tmp_path / "out")
    assert (found["images"], found["test_images"], found["split_is_given"]) == (20, 7, True)
    assert (found["training_images"], found["validation_images"]) == (6, 5)
    assert found["labels"] == {"cat": 9, "dog": 4}
    assert found["leaks"] == [
        ["train/cat/00.jpg", "test/dog/leak.jpg"],
        ["train/cat/01.jpg", "val/cat/leak.jpg"],
    ]
    assert found["near_leaks"] == [["train/dog/02.jpg", "test/dog/near.jpg"]]
    assert listed(tmp_path / "out") == {
        "test/dog/torn.jpg": "bad: the bytes are not a JPEG, PNG, WebP, HEIC or AVIF image",
        "train/cat/00.jpg": "leak: the same bytes as the test image test/dog/leak.jpg",
        "train/cat/01.jpg": "leak: the same bytes as the validation image val/cat/leak.jpg",
    }
    assert "\n7 test images set aside, for `evaluate` alone\n" in capsys.readouterr().out
    quarantine = str(tmp_path / "out" / "quarantine.csv")
    run = run_folder.read(
        train(image_sets.recipe(data, quarantine=quarantine, **QUICK), tmp_path / "run")
    )
    assert (len(run.split.train), len(run.split.valid)) == (6, 5)
    assert "6 test images set aside" in capsys.readouterr().out
    evaluate(run, str(data), {"quarantine": quarantine}, "cpu", tmp_path / "evaluation")
    measured = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert measured["images"] == 6
    with (tmp_path / "evaluation" / "predictions.csv").open() as text:
        assert all(row["path"].startswith("test/dog/") for row in csv.DictReader(text))


def test_leaks_are_shown_where_only_one_of_two_data_has_a_split(
    tmp_path: Path, capsys: Output
) -> None:
    for number, place in enumerate(("plain/cat", "plain/dog", "split/train/cat", "split/val/dog")):
        photos(tmp_path / place, 100 * number, 3)
    leak = tmp_path / "split" / "val" / "dog" / "leak.jpg"
    shutil.copy(tmp_path / "split" / "train" / "cat" / "00.jpg", leak)
    both = (str(tmp_path / "plain"), str(tmp_path / "split"))
    inspect(image_sets.recipe(both[0]).model_copy(update={"data": both}), tmp_path / "out")
    assert (
        "  1 leak: the same bytes on both sides of the given split:\n"
        "    ../split/train/cat/00.jpg, ../split/val/dog/leak.jpg\n"
    ) in capsys.readouterr().out


def test_all_invalid_lines_of_a_csv_are_named(divided: Path, tmp_path: Path) -> None:
    with divided.open("a") as text:
        text.write("gone.jpg,cat,True\n02.jpg,dog,True\n03.jpg\n")
    refused = look(divided, tmp_path / "out")["refused"]
    for expected in ("gone.jpg does not exist", "02.jpg is listed twice", "expected 3 values"):
        assert sum(expected in reason for reason in refused) == 1
    assert len(refused) == 3


@pytest.mark.parametrize("content", [b"no image", b""])
def test_a_folder_of_nothing_but_bad_files_is_still_inspected(
    tmp_path: Path, capsys: Output, content: bytes
) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "data" / label).mkdir(parents=True)
        (tmp_path / "data" / label / "a.jpg").write_bytes(content)
    found = look(tmp_path / "data", tmp_path / "out")
    assert len(found["quarantine"]) == 2
    assert (found["widths_px"], found["training_images"], found["validation_images"]) == ([], 0, 0)
    assert "no image can be used: there is no contact sheet" in capsys.readouterr().out


def test_a_single_label_and_several_labels_in_a_single_label_task_are_findings(
    divided: Path, planted: Path, tmp_path: Path
) -> None:
    refused = look(divided, tmp_path / "first", task="single")["refused"]
    assert any("01.jpg has 2 labels" in reason for reason in refused)
    for label in ("dog", "bird", "red fox", "Redfox"):
        shutil.rmtree(planted / label)
    refused = look(planted, tmp_path / "second")["refused"]
    assert any("has 1 label (cat)" in reason for reason in refused)


def test_a_stale_quarantine_list_is_a_finding(planted: Path, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "q.csv", [["file", "reason"], ["cat/gone.jpg", "old"]])
    refused = look(planted, tmp_path / "out", quarantine=str(file))["refused"]
    assert any("lists cat/gone.jpg, not in" in reason for reason in refused)


def test_names_that_are_not_unicode_are_listed_and_left_out(planted: Path, tmp_path: Path) -> None:
    name = b"bad-\xff.jpg".decode(errors="surrogateescape")
    try:
        (planted / "cat" / name).write_bytes(b"no image")
    except OSError:
        pytest.skip("names of files are Unicode here")
    found = look(planted, tmp_path / "out")
    assert f"cat/{name}" in found["quarantine"]
    quarantine = str(tmp_path / "out" / "quarantine.csv")
    again = look(planted, tmp_path / "again", quarantine=quarantine)
    assert again["quarantine"] == {}


@pytest.mark.parametrize("place", ["taken", "taken/out"])
def test_an_output_that_cannot_be_written_is_refused_before_any_image_is_read(
    planted: Path, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root, who may write anywhere: a file is where the folder should be."""
    monkeypatch.setattr(file_scan, "scan", lambda *_: pytest.fail("images were read"))
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(
        RunError, match="exists and is not empty|cannot be created: Not a directory"
    ):
        inspect(image_sets.recipe(planted), tmp_path / place)
    assert (tmp_path / "taken").read_text() == "mine"


def test_each_option_has_its_effect(planted: Path, tmp_path: Path) -> None:
    few = look(planted, tmp_path / "few", valid=0.1)["validation_images"]
    many = look(planted, tmp_path / "many", valid=0.5, image_size=64)["validation_images"]
    assert few < many
    with (
        Image.open(tmp_path / "few" / "contact_sheet.jpg") as small,
        Image.open(tmp_path / "many" / "contact_sheet.jpg") as large,
    ):
        assert small.width < large.width


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        inspect(image_sets.recipe(tmp_path / "gone"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def mislabelled(tmp_path: Path) -> Path:
    """Three colours, two images of which are in the wrong folder."""
    data = image_sets.class_folders(tmp_path / "data", 20)
    shutil.move(data / "red" / "000.jpg", data / "blue" / "wrong.jpg")
    shutil.move(data / "green" / "000.jpg", data / "red" / "wrong.jpg")
    return data


def suspects_of(out: Path) -> list[dict[str, str]]:
    with (out / "suspects.csv").open(newline="") as text:
        return list(csv.DictReader(text))


def test_wrong_labels_are_found_and_the_list_puts_them_right(
    mislabelled: Path, tmp_path: Path, capsys: Output
) -> None:
    inspect(image_sets.recipe(mislabelled), tmp_path / "out", labels=True)
    text = capsys.readouterr().out
    found = suspects_of(tmp_path / "out")
    assert {(row["file"], row["given"], row["suggested"]) for row in found} == {
        ("blue/wrong.jpg", "blue", "red"),
        ("red/wrong.jpg", "red", "green"),
    }
    assert [row["sure"] for row in found] == sorted((row["sure"] for row in found), reverse=True)
    assert "  2 suspect labels in 2 images, the surest:\n" in text
    assert "    blue/wrong.jpg: 'blue' may be 'red' (" in text
    assert (tmp_path / "out" / "suspects.html").read_text().count("<article") == 2
    listed = str(tmp_path / "out" / "suspects.csv")
    again = look(mislabelled, tmp_path / "again", correct=listed)
    assert again["labels"] == {"blue": 20, "green": 20, "red": 20}
    left = look(mislabelled, tmp_path / "left", quarantine=listed)
    assert left["images"] == 58


def test_wrong_and_missing_tags_are_found(tmp_path: Path) -> None:
    table = image_sets.table(tmp_path / "data", 120)
    rows = [line.split(",") for line in table.read_text().splitlines()]
    missing = next(row for row in rows if row[1] == "red")
    wrong = next(row for row in rows if row[1] == "green")
    missing[1], wrong[1] = "", "green blue"
    write_csv(table, rows)
    inspect(image_sets.recipe(table), tmp_path / "out", labels=True)
    changes = {(r["file"], r["given"], r["suggested"]) for r in suspects_of(tmp_path / "out")}
    assert {(missing[0], "", "red"), (wrong[0], "blue", "")} <= changes


def test_an_image_whose_label_no_other_has_is_not_judged(
    mislabelled: Path, tmp_path: Path, capsys: Output
) -> None:
    (mislabelled / "white").mkdir()
    photo(1).save(mislabelled / "white" / "only.jpg", quality=95)
    inspect(image_sets.recipe(mislabelled), tmp_path / "out", labels=True)
    assert "white/only.jpg" not in {row["file"] for row in suspects_of(tmp_path / "out")}
    assert "1 image not judged: no image that differs from them has" in capsys.readouterr().out


def test_labels_are_not_judged_while_train_would_refuse_the_data(
    planted: Path, tmp_path: Path, capsys: Output
) -> None:
    inspect(image_sets.recipe(planted), tmp_path / "out", labels=True)
    assert "labels are not judged before what train would refuse is fixed" in (
        capsys.readouterr().out
    )
    assert not (tmp_path / "out" / "suspects.csv").exists()


def test_a_bad_file_is_not_judged_but_stays_in_the_page_s_list(
    mislabelled: Path, tmp_path: Path
) -> None:
    (mislabelled / "red" / "torn.jpg").write_bytes(b"")
    inspect(image_sets.recipe(mislabelled), tmp_path / "out", labels=True)
    assert "red/torn.jpg" not in {row["file"] for row in suspects_of(tmp_path / "out")}
    page = (tmp_path / "out" / "suspects.html").read_text()
    assert '"quarantine": [["red/torn.jpg", "bad: the image has no bytes"]]' in page


def test_captured_images_get_a_page_and_a_list_of_what_the_model_guessed(
    tmp_path: Path, capsys: Output
) -> None:
    files = capture(tmp_path, {"cat": 0.75, "dog": 0.25}, {"dog": 0.5, "cat": 0.375})
    photos(tmp_path / "photos" / "cat", 0, 3)
    photos(tmp_path / "photos" / "dog", 9, 3)
    data = (str(tmp_path / "photos"), str(tmp_path / "pets"))
    inspect(image_sets.recipe().model_copy(update={"data": data}), tmp_path / "out")
    assert f"{data[0]} and {data[1]}: 8 images, 2 labels, single-label" in capsys.readouterr().out
    assert (tmp_path / "out" / "guesses.csv").read_text().splitlines() == [
        "file,given,suggested,sure",
        f"../pets/{files[1]},dog,cat,0.5000",
        f"../pets/{files[0]},cat,dog,0.2500",
    ]
    page = (tmp_path / "out" / "guesses.html").read_text()
    assert f"<h1>Captured images in {data[0]} and {data[1]}</h1>" in page
    assert page.count("<article ") == 2
    inspect(image_sets.recipe(tmp_path / "photos"), tmp_path / "without")
    assert not (tmp_path / "without" / "guesses.html").exists()


def test_of_the_same_bytes_with_other_labels_the_later_data_s_are_left_out(tmp_path: Path) -> None:
    photos(tmp_path / "photos" / "cat", 0, 3)
    photos(tmp_path / "photos" / "dog", 9, 3)
    (tmp_path / "more" / "dog").mkdir(parents=True)
    shutil.copy(tmp_path / "photos" / "cat" / "00.jpg", tmp_path / "more" / "dog" / "twin.jpg")
    shutil.copy(tmp_path / "photos" / "dog" / "00.jpg", tmp_path / "more" / "dog" / "same.jpg")
    data = (str(tmp_path / "photos"), str(tmp_path / "more"))
    recipe = image_sets.recipe().model_copy(update={"data": data})
    with pytest.raises(DataError, match="^1 image of several DATA with different labels: ../more/"):
        train(recipe.model_copy(update=QUICK), tmp_path / "run")
    inspect(recipe, tmp_path / "out")
    reason = "conflict: the same bytes as cat/00.jpg, which is labelled cat, not dog"
    assert listed(tmp_path / "out") == {"../more/dog/twin.jpg": reason}
    whole = {**QUICK, "quarantine": str(tmp_path / "out" / "quarantine.csv")}
    train(recipe.model_copy(update=whole), tmp_path / "run")
