"""Parquet files with images inside, as `datasets` writes them, down to resume and export."""

import builtins
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from models.errors import DataError
from testkit import image_sets, opens
from testkit.image_sets import COLOURS, image
from testkit.odd_images import encoded
from training import run_folder
from training.commands.train import resume, train
from training.data import datasets
from training.data.record import Record
from training.export.run_images import validation_images
from training.fine_tuning.trainer import FineTuning

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LABRADOR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(
    file: Path,
    images: list[bytes | None],
    labels: list[Any],
    column: str = "label",
    feature: dict[str, Any] | None = None,
    kind: Any = None,
) -> Path:
    """feature: what `datasets` keeps about the labels in the schema."""
    structs = [{"bytes": data, "path": f"{row}.jpg"} for row, data in enumerate(images)]
    table = pa.table({"image": pa.array(structs, IMAGE), column: pa.array(labels, kind)})
    if feature:
        features = {"image": {"_type": "Image"}, column: feature}
        table = table.replace_schema_metadata(
            {"huggingface": json.dumps({"info": {"features": features}})}
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, file)
    return file


def names(*labels: str) -> dict[str, Any]:
    return {"names": labels, "_type": "ClassLabel"}


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        datasets.read(str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_images_of_a_file_are_unpacked_byte_for_byte_with_the_names_of_their_labels(
    tmp_path: Path, cache: Path
) -> None:
    images: list[bytes | None] = [image(0), encoded(image_sets.photo(1), "PNG"), image(2)]
    file = write(tmp_path / "birds.parquet", images, [1, 0, 1], feature=names("ant", "red fox"))
    found = datasets.read(str(file))
    assert found.root.parent == cache / "parquet"
    assert found.records == (
        Record("images/birds-000000.jpg", ("red fox",)),
        Record("images/birds-000001.png", ("ant",)),
        Record("images/birds-000002.jpg", ("red fox",)),
    )
    assert [(found.root / record.file).read_bytes() for record in found.records] == images
    assert (found.task, found.unused) == ("single", ())


@pytest.mark.parametrize(
    "files",
    [
        ("data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet")
        + ("data/validation-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"),
        ("train/0000.parquet", "train/0001.parquet", "validation/0000.parquet")
        + ("test/0000.parquet",),
        ("train.parquet", "train_2.parquet", "val.parquet", "test.parquet"),
    ],
)
def test_the_names_of_files_or_folders_are_the_official_split(
    tmp_path: Path, files: tuple[str, ...]
) -> None:
    for number, name in enumerate(files):
        write(tmp_path / "set" / name, [image(2 * number), image(2 * number + 1)], ["cat", "dog"])
    found = datasets.read(str(tmp_path / "set"))
    assert [record.side for record in found.records] == ["train"] * 4 + ["valid"] * 2
    assert [record.side for record in found.test] == ["test"] * 2
    assert [record.labels for record in found.test] == [("cat",), ("dog",)]
    contents = [(found.root / r.file).read_bytes() for r in (*found.records, *found.test)]
    assert contents == [image(number) for number in range(8)]


@pytest.mark.parametrize(
    ("labels", "feature", "expected"),
    [
        ([["b", "a"], []], None, [("a", "b"), ()]),
        (["b a", "a"], None, [("a", "b"), ("a",)]),
        (
            [[0, 1], [1]],
            {"feature": names("x y", "z"), "_type": "Sequence"},
            [("x y", "z"), ("z",)],
        ),
        ([[0], [1]], [names("x", "z")], [("x",), ("z",)]),
        ([0, -1], names("x y", "z"), [("x y",), ()]),
        ([7, 8], {"dtype": "int64", "_type": "Value"}, [("7",), ("8",)]),
    ],
)
def test_labels_in_every_form(
    tmp_path: Path, labels: list[Any], feature: Any, expected: list[tuple[str, ...]]
) -> None:
    file = write(tmp_path / "a.parquet", [image(0), image(1)], labels, "labels", feature)
    assert [record.labels for record in datasets.read(str(file)).records] == expected


def test_an_image_without_a_label_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", [image(0), image(1)], [0, -1], feature=names("cat"))
    assert refused(file).endswith("metadata.jsonl, line 2: no label")


def test_files_are_unpacked_once_and_others_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "a.parquet", [image(0)], ["cat"])
    first = datasets.read(str(file)).root
    assert f"unpacking 1 Parquet file to {first}" in capsys.readouterr().out
    first.with_name(f"{first.name}.lock").unlink(missing_ok=True)
    with opens.opened() as files:
        again = datasets.read(str(file)).root
    assert again == first and capsys.readouterr().out == ""
    assert files.count(file) == 1  # for its hash
    assert list(first.parent.iterdir()) == [first]  # nothing is written: it may be read-only
    write(file, [image(1)], ["cat"])
    other = datasets.read(str(file))
    assert other.root != first
    assert (other.root / other.records[0].file).read_bytes() == image(1)


def test_what_was_left_by_an_interrupted_unpacking_is_discarded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "a.parquet", [image(0), image(1)], ["cat", "dog"])

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", stop)
        datasets.read(str(file))
    assert len(datasets.read(str(file)).records) == 2


def test_an_image_without_bytes_is_bad_like_any_other(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", [image(0), None, b"not an image"], ["a", "b", "a"])
    recipe = image_sets.recipe(file)
    with pytest.raises(DataError) as caught:
        train(recipe, tmp_path / "run")
    assert "2 images cannot be used" in str(caught.value)
    assert "images/a-000001: the image has no bytes" in str(caught.value)


def test_columns_that_do_not_fit_are_named(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"pixels": [b"x"], "label": [1]}), file)
    assert refused(file) == (
        f"{file} must have one image column, a struct of bytes and path; it has none among pixels,"
        " label"
    )
    write(file, [image(0)], ["cat"], "fine_label")
    assert refused(file) == (
        f"{file} must have one column of labels, label or labels; it has none among image,"
        " fine_label"
    )


def test_a_file_that_is_not_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    assert refused(tmp_path / "a.parquet").startswith(
        f"{tmp_path / 'a.parquet'} cannot be read as Parquet: "
    )


def test_without_pyarrow_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "a.parquet", [image(0)], ["cat"])
    found = builtins.__import__

    def lacking(name: str, *arguments: Any) -> Any:
        if name.partition(".")[0] == "pyarrow":
            raise ImportError(name)
        return found(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", lacking)
    assert refused(file) == (
        f"{file} is Parquet, which needs pyarrow: pip install '.[parquet]' in Labrador's checkout"
    )


def test_a_run_from_parquet_is_resumed_and_its_images_are_checked_before_export(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    colours = list(COLOURS)
    images: list[bytes | None] = [image(n, [colours[n % 3]]) for n in range(24)]
    file = write(
        tmp_path / "a.parquet", images, [n % 3 for n in range(24)], feature=names(*colours)
    )
    recipe = image_sets.recipe(file, valid=0.5, freeze_epochs=1, epochs=0)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(FineTuning, "step", stop)
        train(recipe, tmp_path / "run")
    resume(tmp_path / "run")
    run = run_folder.read(tmp_path / "run")
    whole = validation_images(run)
    assert len(whole.records) == 12

    changed = Path(run.outcome.root) / run.split.valid[0].file
    changed.write_bytes(image(99))
    with pytest.raises(DataError, match="is missing or has changed since training"):
        validation_images(run)
    shutil.rmtree(cache)
    with pytest.raises(DataError, match="give its folder with --data"):
        validation_images(run)
    again = validation_images(run, str(file))  # unpacked anew
    assert again.records == whole.records and again.files == whole.files
