import csv
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from models import bundle, conformal
from models.errors import BundleError, DataError
from models.manifest import Task
from models.preprocess import decode
from models.store import Store
from serving import predict
from serving.settings import Settings
from testkit import novel_models, tiny_models

COLOURS = [(200, 30, 30), (20, 180, 60), (30, 60, 220), (90, 90, 20), (10, 200, 200)]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with five images, one of them in a subfolder, and a file that is not an image."""
    folder = tmp_path / "images"
    (folder / "inside").mkdir(parents=True)
    for number, colour in enumerate(COLOURS[:4]):
        (folder / f"{number}.jpg").write_bytes(tiny_models.picture(colour))
    (folder / "inside" / "4.JPEG").write_bytes(tiny_models.picture(COLOURS[4]))
    (folder / "notes.txt").write_text("no image")
    return folder


def rows_of(out: Path) -> list[list[str]]:
    with out.open(encoding="utf-8", newline="") as table:
        return list(csv.reader(table))


def predicted(store: Path, out: Path, *paths: Path, model: str = "colours") -> list[str]:
    settings = Settings(model_store=store, device="cpu", max_batch=2)
    return predict.predict(model, paths, out, settings)


@pytest.mark.parametrize(("model", "task"), [("colours", "single"), ("tags", "multi")])
def test_each_image_has_a_row_with_the_scores_of_the_service(
    model: str, task: str, store: Path, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.csv"
    assert predicted(store, out, images, model=model) == []
    header, *rows = rows_of(out)
    assert header == ["path", "model", "predicted", "error", "red", "green", "blue"]
    files = [*(images / f"{n}.jpg" for n in range(4)), images / "inside" / "4.JPEG"]
    assert [row[0] for row in rows] == [str(file) for file in files]
    manifest = tiny_models.content(model, 1, "single" if task == "single" else "multi")[0]
    pixels = np.stack([decode(file.read_bytes(), manifest.preprocess) for file in files])
    expected = tiny_models.reference_scores(pixels, manifest.task)
    np.testing.assert_allclose(np.array([r[4:] for r in rows], np.float32), expected, atol=1e-5)
    for row, scores in zip(rows, expected, strict=True):
        above = [name for name, s in zip(tiny_models.LABELS, scores, strict=True) if s >= 0.5]
        likeliest = tiny_models.LABELS[int(scores.argmax())]
        assert set(row[2].split()) == ({likeliest} if task == "single" else set(above))
        assert (row[1], row[3]) == (f"{model}:1", "")


def test_bad_files_are_named_and_affect_no_other(store: Path, images: Path, tmp_path: Path) -> None:
    (images / "2.jpg").write_text("not an image")
    out = tmp_path / "out.csv"
    (bad,) = predicted(store, out, images)
    assert bad.startswith(f"{images / '2.jpg'}: image_undecodable: ")
    rows = rows_of(out)[1:]
    assert [bool(row[3]) for row in rows] == [False, False, True, False, False]
    assert rows[2][2] == "" and rows[2][4:] == ["", "", ""]
    assert predicted(store, out, images) == [bad]  # errors are kept in the CSV


def test_an_interrupted_run_resumes_where_it_stopped(
    store: Path, images: Path, tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole.csv", tmp_path / "out.csv"
    predicted(store, whole, images)
    text = whole.read_bytes()
    cut = text.index(b"2.jpg") + 9  # within the third image's row
    out.write_bytes(text[:cut])
    predicted(store, out, images)
    assert out.read_bytes() == text
    (images / "3.jpg").unlink()
    (images / "5.jpg").write_bytes(tiny_models.picture())
    predicted(store, out, images)
    assert out.read_bytes().startswith(text)
    assert [Path(row[0]).name for row in rows_of(out)[6:]] == ["5.jpg"]


def test_finished_images_are_not_run_again(store: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    predicted(store, out, images)
    for file in images.rglob("*.jpg"):
        file.write_text("spoilt since")
    assert predicted(store, out, images) == []


def test_a_csv_of_another_model_or_with_other_columns_is_left_alone(
    store: Path, images: Path, tmp_path: Path
) -> None:
    own = Path(tmp_path / "store")
    tiny_models.add(own, "colours", "single")
    tiny_models.add(own, "colours", "single", weights=tiny_models.WEIGHTS * 2)
    out = tmp_path / "out.csv"
    predicted(own, out, images)
    before = out.read_bytes()
    Store(own).release("colours", 2)
    with pytest.raises(
        DataError, match="has predictions of colours:1, not colours:2: give another"
    ):
        predicted(own, out, images)
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [
        b"a,b\n1,2\n",
        b"Call the vet.\nBuy a lead.",  # without a newline at its end
        b'{"one": "line"}',
        b"path,model,predicted,error,dog",
        b"\xff\xd8\n" + bytes(200_000) + b"\n\xff\xd9",
        b"\xff\xd8" + bytes(200_000) + b"\n\xff\xd9",  # more than a cell of a CSV may have
        b"\n",
    ],
    ids=["csv", "text", "line", "columns", "picture", "large", "blank"],
)
def test_a_file_that_is_no_table_of_predictions_is_left_as_it_was(
    content: bytes, store: Path, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "own"
    out.write_bytes(content)
    with pytest.raises(DataError, match="^[^\n]*own .*: give another --out$"):
        predicted(store, out, images)
    assert out.read_bytes() == content


@pytest.mark.parametrize("kept_bytes", [0, 1, 40, 42])
def test_a_run_that_was_interrupted_in_its_first_line_starts_again(
    kept_bytes: int, store: Path, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.csv"
    predicted(store, out, images)
    text = out.read_bytes()
    assert text.index(b"\n") == 42
    out.write_bytes(text[:kept_bytes])
    predicted(store, out, images)
    assert out.read_bytes() == text


def test_a_line_with_other_columns_is_named_and_a_blank_one_does_no_harm(
    store: Path, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.csv"
    predicted(store, out, images)
    header, *lines = out.read_bytes().splitlines(keepends=True)
    blank = b"".join([header, lines[0], b"\r\n", *lines[1:]])
    out.write_bytes(blank)
    assert predicted(store, out, images) == []
    assert out.read_bytes() == blank
    short = b"".join([header, lines[0], b"x.jpg,colours:1\r\n", *lines[1:], b"half a l"])
    out.write_bytes(short)
    with pytest.raises(DataError, match="out.csv, line 3, has 2 columns and not 7: remove the li"):
        predicted(store, out, images)
    assert out.read_bytes() == short


def test_files_that_could_not_be_read_are_tried_again(
    store: Path, images: Path, tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole.csv", tmp_path / "out.csv"
    predicted(store, whole, images)
    header, *lines = whole.read_bytes().splitlines(keepends=True)
    second = f"{images / '1.jpg'},colours:1,,internal: cannot be read: Stale file handle,,,\r\n"
    out.write_bytes(b"".join([header, lines[0], second.encode(), *lines[2:], b"half a l"]))
    out.chmod(0o640)
    assert predicted(store, out, images / "0.jpg") == []
    assert second.encode() in out.read_bytes()  # nobody asked for it
    assert predicted(store, out, images) == []
    assert out.read_bytes().startswith(b"".join([header, lines[0], *lines[2:]]))
    assert [Path(row[0]).name for row in rows_of(out)[5:]] == ["1.jpg"]
    assert rows_of(out)[-1][:4] == rows_of(whole)[2][:4]
    assert stat.S_IMODE(out.stat().st_mode) == 0o640


def test_a_file_name_may_be_any_bytes(store: Path, tmp_path: Path) -> None:
    name, out = b"caf\xe9.jpg", tmp_path / "out.csv"
    file = tmp_path / os.fsdecode(name)
    file.write_bytes(tiny_models.picture())
    assert predicted(store, out, file) == []
    text = out.read_bytes()
    assert name + b",colours:1,red," in text
    file.write_text("spoilt since")
    assert predicted(store, out, file) == []
    assert out.read_bytes() == text


def test_missing_files_images_and_models_are_named(
    store: Path, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.csv"
    with pytest.raises(DataError, match="gone.jpg does not exist"):
        predicted(store, out, images / "gone.jpg")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        DataError, match="no images in .*empty: none of the files ends in .jpeg, .jpg"
    ):
        predicted(store, out, tmp_path / "empty")
    with pytest.raises(BundleError, match="no model pets"):
        predicted(store, out, images, model="pets")
    assert not out.exists()


def test_a_file_given_by_name_is_read_whatever_its_extension(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "upload"
    file.write_bytes(tiny_models.picture())
    assert predicted(store, tmp_path / "out.csv", file, file) == []
    assert len(rows_of(tmp_path / "out.csv")) == 2


@pytest.mark.parametrize("task", ["single", "multi"])
def test_a_model_with_novelty_adds_the_p_value_and_whether_an_image_is_unknown(
    task: Task, images: Path, tmp_path: Path
) -> None:
    own, out = tmp_path / "store", tmp_path / "out.csv"
    path = novel_models.add(own, "colours", task)
    (images / "grey.jpg").write_bytes(tiny_models.picture((130, 130, 130)))
    (images / "broken.jpg").write_text("not an image")
    assert len(predicted(own, out, images)) == 1
    header, *rows = rows_of(out)
    assert header[:6] == ["path", "model", "predicted", "error", "p_value", "unknown"]
    assert header[6:] == list(tiny_models.LABELS)
    manifest = bundle.read(path).manifest
    known = novel_models.held_out(task).novelty
    assert known is not None
    for row in rows:
        assert len(row) == len(header)
        if row[3]:
            assert row[4:] == [""] * 5
            continue
        pixels = decode(Path(row[0]).read_bytes(), manifest.preprocess)[None]
        p_value = conformal.p_values(novel_models.reference_novelty(pixels), known)[0]
        assert float(row[4]) == pytest.approx(p_value, abs=0.011)  # a rank or two, by rounding
        assert row[5] == ("yes" if float(row[4]) <= novel_models.ALPHA else "no")
    found = {Path(row[0]).name: row[5] for row in rows}
    assert found["grey.jpg"] == "no" and found["0.jpg"] == found["4.JPEG"] == "yes"
    text = out.read_bytes()
    predicted(own, out, images)
    assert out.read_bytes() == text
