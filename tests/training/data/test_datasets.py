from pathlib import Path

import pytest

from models.errors import DataError
from testkit.image_sets import image, put, write_csv
from training.data import datasets
from training.data.datasets import Dataset
from training.data.record import Record

SHARED = Path(__file__).parents[4] / "shared" / "data"


def refused(path: Path, *arguments: str | None) -> str:
    with pytest.raises(DataError) as caught:
        datasets.read(str(path), *arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def labels_of(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    return {record.file: record.labels for record in dataset.records}


# Class folders.


def test_class_folders_are_labels(tmp_path: Path) -> None:
    put(tmp_path, "dog/b.jpg", "cat/z.png", "dog/a.JPEG", "cat/deep/er/y.webp", "emu bird/x.jpg")
    found = datasets.read(str(tmp_path))
    assert found.root == tmp_path
    assert found.labels == ("cat", "dog", "emu bird")
    assert found.task == "single"
    assert found.records == (
        Record("cat/deep/er/y.webp", ("cat",)),
        Record("cat/z.png", ("cat",)),
        Record("dog/a.JPEG", ("dog",)),
        Record("dog/b.jpg", ("dog",)),
        Record("emu bird/x.jpg", ("emu bird",)),
    )


def test_only_images_count_and_hidden_folders_are_not_labels(tmp_path: Path) -> None:
    put(tmp_path, "cat/a.jpg", "cat/notes.txt", "cat/b.gif", "cat/._a.jpg", ".cache/c.jpg")
    found = datasets.read(str(tmp_path))
    assert labels_of(found) == {"cat/a.jpg": ("cat",)}
    assert found.labels == ("cat",)
    assert found.notes == ()


def test_a_class_folder_without_images_is_not_a_label_and_is_reported(tmp_path: Path) -> None:
    put(tmp_path, "cat/a.jpg", "dog/b.gif", "emu/deep/c.jpg")
    (tmp_path / "bird").mkdir()
    found = datasets.read(str(tmp_path))
    assert (found.labels, found.empty) == (("cat", "emu"), ("bird", "dog"))
    with pytest.raises(DataError) as caught:
        datasets.check_labels(found)
    assert f"2 class folders of {tmp_path} without images (" in str(caught.value)
    assert "): bird, dog; add images, or remove empty folders" in str(caught.value)


def test_the_error_for_class_folders_without_images_names_the_suffixes(tmp_path: Path) -> None:
    put(tmp_path, "cat/a.gif")
    assert refused(tmp_path) == (
        f"{tmp_path} holds no images (.avif, .heic, .heif, .jpeg, .jpg, .png, .webp);"
        " 1 file not used (1 .gif)"
    )


def test_images_next_to_class_folders_are_left_out_and_reported(tmp_path: Path) -> None:
    put(tmp_path, "cat/a.jpg", *(f"stray-{number}.jpg" for number in range(7)))
    found = datasets.read(str(tmp_path))
    assert labels_of(found) == {"cat/a.jpg": ("cat",)}
    assert found.notes == ()
    assert found.unused == found.strays == tuple(f"stray-{number}.jpg" for number in range(7))


def test_class_folders_can_be_a_multi_label_task(tmp_path: Path) -> None:
    put(tmp_path, "cat/a.jpg", "dog/b.jpg")
    found = datasets.read(str(tmp_path), task="multi")
    assert found.task == "multi"
    assert labels_of(found) == {"cat/a.jpg": ("cat",), "dog/b.jpg": ("dog",)}


@pytest.mark.parametrize("folders", [("train", "valid"), ("Train", "test", "val"), ("training",)])
def test_folders_of_a_split_without_class_folders_are_not_labels(
    tmp_path: Path, folders: tuple[str, ...]
) -> None:
    put(tmp_path, *(f"{folder}/a.jpg" for folder in folders))
    message = refused(tmp_path)
    assert all(folder in message for folder in folders)
    assert "splits, not labels, and hold no class folders" in message
    assert "fname,labels,is_valid" in message


def sides_of(found: Dataset) -> dict[str, str | None]:
    return {record.file: record.side for record in found.records}


@pytest.mark.parametrize("valid", ["valid", "val", "Validation"])
def test_class_folders_in_the_folders_of_a_split_have_that_split(
    tmp_path: Path, valid: str
) -> None:
    put(tmp_path, "train/cat/1.jpg", "train/dog/deep/2.jpg", f"{valid}/cat/3.jpg", "train/4.jpg")
    put(tmp_path, "test/cat/5.jpg", "6.jpg")
    (tmp_path / valid / "dog").mkdir()
    (tmp_path / "test" / "emu").mkdir()
    found = datasets.read(str(tmp_path))
    assert labels_of(found) == {
        "train/cat/1.jpg": ("cat",),
        "train/dog/deep/2.jpg": ("dog",),
        f"{valid}/cat/3.jpg": ("cat",),
    }
    assert sides_of(found) == {
        "train/cat/1.jpg": "train",
        "train/dog/deep/2.jpg": "train",
        f"{valid}/cat/3.jpg": "valid",
    }
    assert found.test == (Record("test/cat/5.jpg", ("cat",), "test"),)
    assert found.notes == ("1 test image set aside, for `evaluate` alone",)
    assert found.empty == ("emu",)  # an empty folder of a label that has images elsewhere is fine
    assert found.unused == found.strays == ("6.jpg", "train/4.jpg")


def test_where_there_is_no_validation_test_is_that(tmp_path: Path) -> None:
    put(tmp_path, "train/cat/1.jpg", "test/cat/2.jpg")
    found = datasets.read(str(tmp_path))
    assert sides_of(found) == {"test/cat/2.jpg": "valid", "train/cat/1.jpg": "train"}
    assert (found.test, found.notes) == ((), ())


def test_one_part_of_a_split_alone_is_no_split(tmp_path: Path) -> None:
    """As Kaggle has it, where the labels of test are secret: its images are strays."""
    put(tmp_path, "train/cat/1.jpg", "train/dog/2.jpg", "test/3.jpg")
    found = datasets.read(str(tmp_path))
    assert sides_of(found) == {"train/cat/1.jpg": None, "train/dog/2.jpg": None}
    assert found.labels == ("cat", "dog") and found.strays == ("test/3.jpg",)


def test_two_folders_for_one_part_of_a_split_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "train/cat/1.jpg", "val/cat/2.jpg", "valid/cat/3.jpg")
    assert refused(tmp_path) == "val and valid are the same part of a split: merge them"


def test_test_images_can_be_left_out_and_relabelled_like_others(tmp_path: Path) -> None:
    put(tmp_path / "d", "train/cat/1.jpg", "val/cat/2.jpg", "test/cat/3.jpg", "test/cat/4.jpg")
    listed = write_csv(tmp_path / "q.csv", [["file", "reason"], ["test/cat/3.jpg", "bad"]])
    renaming = write_csv(tmp_path / "r.csv", [["from", "to"], ["cat", "tom"]])
    found = datasets.read(str(tmp_path / "d"), relabel=str(renaming), quarantine=str(listed))
    assert found.test == (Record("test/cat/4.jpg", ("tom",), "test"),)


def test_a_split_s_name_among_others_is_a_label(tmp_path: Path) -> None:
    put(tmp_path, "train/a.jpg", "bus/b.jpg")
    assert datasets.read(str(tmp_path)).labels == ("bus", "train")


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert refused(missing) == (
        f"{missing} does not exist: give a folder, a file (.csv, .txt, .jsonl or .parquet),"
        " oxford-pets or voc2007"
    )


def test_the_error_for_a_folder_without_class_folders_names_the_layouts(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg")
    message = refused(tmp_path)
    assert "no class folders" in message
    assert all(word in message for word in ("--pattern", "CSV", "Oxford"))


def test_the_error_for_a_pattern_without_images_names_the_suffixes(tmp_path: Path) -> None:
    put(tmp_path, "cat/a.gif")
    assert refused(tmp_path, "(.)").startswith(f"{tmp_path} holds no images (.avif, .heic, .heif,")
    assert "is not a folder: --pattern needs" in refused(tmp_path / "cat" / "a.gif", "(.)")


# A pattern.


def test_a_pattern_takes_the_label_from_the_file_name(tmp_path: Path) -> None:
    put(tmp_path, "great_pyrenees_12.jpg", "Abyssinian_1.jpg", "more/great_pyrenees_3.jpg")
    found = datasets.read(str(tmp_path), r"(.+)_\d+.jpg$")
    assert labels_of(found) == {
        "Abyssinian_1.jpg": ("Abyssinian",),
        "great_pyrenees_12.jpg": ("great_pyrenees",),
        "more/great_pyrenees_3.jpg": ("great_pyrenees",),
    }
    assert found.labels == ("Abyssinian", "great_pyrenees")
    assert found.task == "single"


def test_a_pattern_sees_the_name_only_and_wins_over_class_folders(tmp_path: Path) -> None:
    put(tmp_path, "x_1/cat_1.jpg", "y_1/dog_2.jpg")
    assert datasets.read(str(tmp_path), r"([a-z]+)_\d").labels == ("cat", "dog")


def test_a_file_the_pattern_does_not_match_is_named(tmp_path: Path) -> None:
    put(tmp_path, "cat_1.jpg", "stray.jpg")
    message = refused(tmp_path, r"(.+)_\d+.jpg$")
    assert message == r"--pattern '(.+)_\\d+.jpg$' finds no label in stray.jpg"


def test_a_group_that_is_empty_or_unmatched_gives_no_label(tmp_path: Path) -> None:
    put(tmp_path, "_1.jpg")
    assert "finds no label in _1.jpg" in refused(tmp_path, r"(.*)_\d+.jpg$")
    assert "finds no label in _1.jpg" in refused(tmp_path, r"(cat)?_\d+.jpg$")


def test_an_invalid_pattern_or_one_without_a_group_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "cat_1.jpg")
    assert "--pattern '(.+' is not a valid regular expression: " in refused(tmp_path, "(.+")
    assert refused(tmp_path, ".+") == "--pattern '.+' has no group: group 1 is the label"


# A CSV.


@pytest.mark.parametrize("folder", [".", "images", "train"])
def test_file_names_are_relative_to_the_csv_s_folder_or_one_next_to_it(
    tmp_path: Path, folder: str
) -> None:
    put(tmp_path / folder, "b.jpg", "sub/a.jpg")
    rows = [["fname", "labels"], ["sub/a.jpg", "dog"], ["b.jpg", "cat"]]
    found = datasets.read(str(write_csv(tmp_path / "labels.csv", rows)))
    assert found.root.resolve() == (tmp_path / folder).resolve()
    assert found.records == (Record("b.jpg", ("cat",)), Record("sub/a.jpg", ("dog",)))
    assert found.task == "single"


def test_images_can_lie_in_a_folder_given_as_an_option(tmp_path: Path) -> None:
    put(tmp_path / "far", "a.jpg", "b.jpg")
    put(tmp_path / "images", "a.jpg")
    file = write_csv(tmp_path / "l.csv", [["fname", "labels"], ["a.jpg", "x"], ["b.jpg", "y"]])
    assert datasets.read(str(file), images=str(tmp_path / "far")).root == tmp_path / "far"


def test_the_error_for_missing_images_names_the_folders_searched(tmp_path: Path) -> None:
    put(tmp_path / "far", "a.jpg")
    message = refused(write_csv(tmp_path / "l.csv", [["fname", "labels"], ["a.jpg", "x"]]))
    assert "a.jpg is in none of" in message
    assert str(tmp_path / "images") in message
    assert "--images" in message


def test_labels_of_a_csv_are_split_sorted_and_single_only_where_each_has_one(
    tmp_path: Path,
) -> None:
    put(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    rows = [["fname", "labels"], ["c.jpg", "cat"], ["a.jpg", "zebra  ant zebra"], ["b.jpg", ""]]
    found = datasets.read(str(write_csv(tmp_path / "l.csv", rows)))
    assert found.labels == ("ant", "cat", "zebra")
    assert found.task == "multi"
    assert labels_of(found) == {"a.jpg": ("ant", "zebra"), "b.jpg": (), "c.jpg": ("cat",)}


@pytest.mark.parametrize(("labels", "count"), [("ant bee", 2), ("", 0)])
def test_a_single_label_task_refuses_other_numbers_of_labels(
    tmp_path: Path, labels: str, count: int
) -> None:
    put(tmp_path, "a.jpg", "b.jpg")
    rows = [["fname", "labels"], ["a.jpg", "ant"], ["b.jpg", labels]]
    message = refused(write_csv(tmp_path / "l.csv", rows), None, None, "single")
    assert message.startswith(f"b.jpg has {count} labels;")
    assert "--task multi" in message


def test_an_official_split_is_read_in_any_spelling(tmp_path: Path) -> None:
    names = [f"{number}.jpg" for number in range(6)]
    put(tmp_path, *names)
    sides = ["True", "FALSE", "1", "0", " true ", "False"]
    rows = [[n, "cat", s] for n, s in zip(names, sides, strict=True)]
    found = datasets.read(
        str(write_csv(tmp_path / "l.csv", [["fname", "labels", "is_valid"], *rows]))
    )
    assert [record.side for record in found.records] == ["valid", "train"] * 3


def test_without_the_column_is_valid_no_image_has_a_side(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg")
    found = datasets.read(str(write_csv(tmp_path / "l.csv", [["fname", "labels"], ["a.jpg", "x"]])))
    assert [record.side for record in found.records] == [None]


def test_columns_can_have_any_order_and_the_file_a_byte_order_mark(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg")
    file = tmp_path / "l.csv"
    file.write_text("labels,is_valid,fname\r\ncat dog,1,a.jpg\r\n", encoding="utf-8-sig")
    assert datasets.read(str(file)).records == (Record("a.jpg", ("cat", "dog"), "valid"),)


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("header", [["file", "label"], ["fname", "labels", "split"], ["fname"]])
def test_wrong_columns_are_named_with_the_valid_ones(
    tmp_path: Path, header: list[str], given: bool
) -> None:
    put(tmp_path, "a.jpg")
    file = write_csv(tmp_path / "l.csv", [header, ["a.jpg", "x", "train"][: len(header)]])
    message = refused(file, None, str(tmp_path) if given else None)
    assert f"has the columns {', '.join(header)};" in message
    assert "fname,labels or fname,labels,is_valid" in message


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("c.jpg,cat,False", "c.jpg does not exist"),
        ("a.jpg,dog,True", "a.jpg is listed twice"),
        ("./a.jpg,dog,True", "./a.jpg is listed twice"),
        ("../data/a.jpg,dog,True", "../data/a.jpg is listed twice"),
        ("b.jpg,dog,maybe", "is_valid='maybe': use True or False"),
        ("b.jpg,dog,", "is_valid='': use True or False"),
        ("b.jpg,dog", "expected 3 values"),
        ("b.jpg,dog,True,1", "expected 3 values"),
        (",dog,True", "fname is empty"),
        (",dog", "expected 3 values"),
        (".,dog,True", "does not exist"),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path: Path, line: str, problem: str) -> None:
    file = put(tmp_path / "data", "a.jpg", "b.jpg") / "l.csv"
    file.write_text(f"fname,labels,is_valid\na.jpg,cat,True\n{line}\n", encoding="utf-8")
    message = refused(file)
    assert message.startswith(f"{file}, line 3: ")
    assert problem in message


def test_a_csv_without_lines_holds_no_images(tmp_path: Path) -> None:
    assert "holds no images" in refused(write_csv(tmp_path / "l.csv", [["fname", "labels"]]))


@pytest.mark.parametrize("content", [image(0), b"fname,labels\n\xff.jpg,cat\n"])
def test_a_file_that_is_not_csv_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "picture.jpg"
    file.write_bytes(content)
    assert f"{file} is not a CSV file: " in refused(file)


def test_another_separator_keeps_the_spaces_in_labels(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "b.jpg")
    rows = [["fname", "labels"], ["a.jpg", " polar bear| ant|"], ["b.jpg", "polar bear"]]
    found = datasets.read(str(write_csv(tmp_path / "l.csv", rows)), separator="|")
    assert labels_of(found) == {"a.jpg": ("ant", "polar bear"), "b.jpg": ("polar bear",)}


@pytest.mark.parametrize("url", ["https://example.com/a.jpg", "S3://bucket/a.jpg"])
@pytest.mark.parametrize("others", [True, False])
def test_a_url_is_refused_by_name(tmp_path: Path, url: str, others: bool) -> None:
    put(tmp_path, "b.jpg")
    more = [["b.jpg", "cat"]] if others else []
    file = write_csv(tmp_path / "l.csv", [["fname", "labels"], [url, "cat"], *more])
    message = refused(file)
    assert message == (
        f"{file}, line 2: {url} is a URL: download the images, and list the files' names"
    )


# Oxford-IIIT Pet.


def pets(folder: Path) -> Path:
    put(folder / "images", "great_pyrenees_12.jpg", "Bengal_7.jpg", "Bengal_8.jpg", "Extra_1.jpg")
    (folder / "annotations").mkdir()
    trainval = "# a comment\ngreat_pyrenees_12 1 1 1\nBengal_8 2 1 1\n\n"
    (folder / "annotations" / "trainval.txt").write_text(trainval)
    (folder / "annotations" / "test.txt").write_text("Bengal_7 2 1 1\n \n")
    return folder


def test_the_pet_folder_gives_its_own_labels_and_split(tmp_path: Path) -> None:
    found = datasets.read(str(pets(tmp_path)))
    assert found.root == tmp_path / "images"
    assert found.task == "single"
    assert found.labels == ("Bengal", "great_pyrenees")
    assert found.records == (
        Record("Bengal_7.jpg", ("Bengal",), "valid"),
        Record("Bengal_8.jpg", ("Bengal",), "train"),
        Record("great_pyrenees_12.jpg", ("great_pyrenees",), "train"),
    )


def test_a_pet_that_is_listed_but_missing_is_named(tmp_path: Path) -> None:
    (pets(tmp_path) / "images" / "Bengal_7.jpg").unlink()
    assert refused(tmp_path).startswith("test.txt lists Bengal_7.jpg, which is not in ")


def test_a_pet_that_is_listed_twice_is_one_image(tmp_path: Path) -> None:
    with (pets(tmp_path) / "annotations" / "trainval.txt").open("a") as listed:
        listed.write("Bengal_8 2 1 1\n")
    assert len(datasets.read(str(tmp_path)).records) == 3


def test_a_pet_folder_without_its_lists_is_refused(tmp_path: Path) -> None:
    (pets(tmp_path) / "annotations" / "test.txt").unlink()
    assert refused(tmp_path) == f"{tmp_path / 'annotations' / 'test.txt'} cannot be read"


def test_a_folder_of_images_and_annotations_need_not_be_pets(tmp_path: Path) -> None:
    """As COCO has them."""
    put(tmp_path / "images", "1.jpg")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances.json").write_text("{}")
    with pytest.raises(DataError, match=f"1 class folder of {tmp_path} without images .*: annot"):
        datasets.check_labels(datasets.read(str(tmp_path), task="multi"))


# PASCAL VOC.


def voc(folder: Path, **lists: str) -> Path:
    """The objects of each image are in its name; a list of names for each of `lists`."""
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "Annotations").mkdir()
    for side, names in lists.items():
        (folder / "ImageSets" / "Main" / f"{side}.txt").write_text("\n".join(names.split()))
    for name in sorted({name for names in lists.values() for name in names.split()}):
        put(folder / "JPEGImages", f"{name}.jpg")
        objects = "".join(
            f"<object><name>{label}</name><difficult>{number % 2}</difficult>"
            "<part><name>head</name></part></object>"
            for number, label in enumerate(name.split("-")[1:])
        )
        text = f"<annotation><filename>{name}.jpg</filename>{objects}</annotation>"
        (folder / "Annotations" / f"{name}.xml").write_text(text)
    return folder


def test_a_voc_folder_gives_the_labels_of_all_objects_and_its_own_split(tmp_path: Path) -> None:
    lists = {"train": "1-dog", "val": "2-cat", "trainval": "1-dog 2-cat", "test": "3-dog-car-dog 4"}
    found = datasets.read(str(voc(tmp_path, **lists)))
    assert found.root == tmp_path / "JPEGImages"
    assert (found.task, found.labels) == ("multi", ("car", "cat", "dog"))
    assert found.records == (
        Record("1-dog.jpg", ("dog",), "train"),
        Record("2-cat.jpg", ("cat",), "train"),
        Record("3-dog-car-dog.jpg", ("car", "dog"), "valid"),
        Record("4.jpg", (), "valid"),
    )


@pytest.mark.parametrize("inside", [".", "VOCdevkit/VOC2007", "VOC2012"])
def test_a_voc_folder_without_annotations_for_test_is_split_into_train_and_val(
    tmp_path: Path, inside: str
) -> None:
    folder = voc(tmp_path / inside, train="1-dog", val="2-cat", trainval="1-dog 2-cat", test="3")
    (folder / "Annotations" / "3.xml").unlink()
    found = datasets.read(str(tmp_path))
    assert [(record.file, record.side) for record in found.records] == [
        ("1-dog.jpg", "train"),
        ("2-cat.jpg", "valid"),
    ]


def test_faults_of_a_voc_folder_are_named(tmp_path: Path) -> None:
    folder = voc(tmp_path, train="1-dog 2-cat 3-cat", val="4-cat 5-cat")
    (folder / "JPEGImages" / "1-dog.jpg").unlink()
    (folder / "Annotations" / "2-cat.xml").unlink()
    (folder / "Annotations" / "3-cat.xml").write_text("<annotation><obj")
    (folder / "Annotations" / "4-cat.xml").write_text(
        "<annotation><object><name> </name></object></annotation>"
    )
    complaints: list[str] = []
    found = datasets.read(str(tmp_path), complain=complaints.append)
    assert [record.file for record in found.records] == ["5-cat.jpg"]
    for complaint, expected in zip(
        complaints,
        ("lists 1-dog.jpg, which is not in", "2-cat.xml cannot", "3-cat.xml cannot", "a name"),
        strict=True,
    ):
        assert expected in complaint
    assert refused(tmp_path) == complaints[0]
    lists = folder / "ImageSets" / "Main"
    (lists / "train.txt").unlink()
    assert refused(tmp_path) == f"{lists / 'train.txt'} cannot be read"


def test_several_voc_folders_are_named(tmp_path: Path) -> None:
    for year in ("VOC2007", "VOC2012"):
        voc(tmp_path / "VOCdevkit" / year, train="1-dog", val="2-cat")
    message = refused(tmp_path)
    assert "VOC2007" in message and "VOC2012: give one of them" in message


# Labels renamed, images left out.


def renamed(folder: Path, *rows: tuple[str, str]) -> dict[str, tuple[str, ...]]:
    file = write_csv(folder / "relabel.csv", [["from", "to"], *rows])
    return labels_of(datasets.read(str(folder / "data"), relabel=str(file)))


def test_labels_are_renamed_and_merged_all_at_once(tmp_path: Path) -> None:
    put(tmp_path / "data", "Birman/1.jpg", "Bengal/2.jpg", "beagle/3.jpg", "pug/4.jpg")
    rows = [("Birman", "cat"), ("Bengal", "cat"), ("beagle", "pug"), ("pug", "small dog")]
    assert renamed(tmp_path, *rows) == {
        "Birman/1.jpg": ("cat",),
        "Bengal/2.jpg": ("cat",),
        "beagle/3.jpg": ("pug",),
        "pug/4.jpg": ("small dog",),
    }


def test_labels_that_are_not_listed_stay_and_merged_ones_count_once(tmp_path: Path) -> None:
    put(tmp_path / "images", "1.jpg", "2.jpg")
    rows = [["fname", "labels"], ["1.jpg", "Birman Bengal sofa"], ["2.jpg", "sofa"]]
    table = write_csv(tmp_path / "labels.csv", rows)
    file = write_csv(tmp_path / "r.csv", [["to", "from"], ["cat", "Birman"], ["cat", "Bengal"]])
    found = datasets.read(str(table), relabel=str(file))
    assert labels_of(found) == {"1.jpg": ("cat", "sofa"), "2.jpg": ("sofa",)}
    assert found.labels == ("cat", "sofa")


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([["from", "to"], ["begle", "dog"]], "line 2: no image has the label 'begle'; valid:"),
        ([["from", "to"], ["begle", "dog"]], "valid: beagle, Birman"),
        ([["from", "to"], ["beagle", "a"], ["beagle", "b"]], "line 3: 'beagle' is listed twice"),
        ([["from", "to"], ["beagle", " "]], "line 2: 'beagle' has no new name"),
        ([["from", "to"], ["", "dog"]], "line 2: from is empty"),
        ([["from", "to"], ["beagle"]], "line 2: expected 2 values"),
        ([["old", "new"], ["beagle", "dog"]], "has the columns old, new; they must be from,to"),
        ([], "has the columns ; they must be from,to"),
    ],
)
def test_an_invalid_list_of_new_names_is_refused(
    tmp_path: Path, rows: list[list[str]], problem: str
) -> None:
    put(tmp_path / "data", "Birman/1.jpg", "beagle/2.jpg", "pug/3.jpg")
    file = write_csv(tmp_path / "relabel.csv", rows)
    with pytest.raises(DataError) as caught:
        datasets.read(str(tmp_path / "data"), relabel=str(file))
    assert str(caught.value).startswith(str(file))
    assert problem in str(caught.value)


def test_a_list_that_is_missing_is_named(tmp_path: Path) -> None:
    put(tmp_path, "cat/1.jpg")
    for option in ("relabel", "quarantine"):
        with pytest.raises(DataError, match=r"none\.csv cannot be read: No such file"):
            datasets.read(str(tmp_path), **{option: str(tmp_path / "none.csv")})  # type: ignore[arg-type]


def test_images_on_the_quarantine_list_are_left_out_and_counted(tmp_path: Path) -> None:
    put(tmp_path / "data", "cat/1.jpg", "cat/2.jpg", "dog/3.jpg", "odd/4.jpg")
    rows = [["file", "reason"], ["cat/2.jpg", "bad: torn"], ["odd/4.jpg", ""]]
    file = write_csv(tmp_path / "q.csv", rows)
    found = datasets.read(str(tmp_path / "data"), quarantine=str(file))
    assert [record.file for record in found.records] == ["cat/1.jpg", "dog/3.jpg"]
    assert found.labels == ("cat", "dog")
    assert found.notes == (f"2 images left out, as listed in {file}",)


def test_a_quarantine_list_of_other_data_is_refused_with_the_files_that_are_missing(
    tmp_path: Path,
) -> None:
    put(tmp_path / "data", "cat/1.jpg", "cat/2.jpg")
    rows = [["file", "reason"], ["cat/2.jpg", "x"], ["cat/9.jpg", "x"]]
    file = write_csv(tmp_path / "q.csv", rows)
    with pytest.raises(DataError, match=r"lists cat/9.jpg, not in .*use the list of this data"):
        datasets.read(str(tmp_path / "data"), quarantine=str(file))


# What training needs of labels.


def checked(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        datasets.check_labels(datasets.read(str(folder)))
    return str(caught.value)


@pytest.mark.parametrize(
    ("first", "second"),
    [("Cat", "cat"), ("red fox", "redfox"), ("Red  Fox", "red fox"), ("caf\u00e9", "cafe\u0301")],
)
def test_labels_that_differ_only_by_case_or_spaces_are_refused(
    tmp_path: Path, first: str, second: str
) -> None:
    put(tmp_path, f"{first}/1.jpg", f"{second}/2.jpg", "dog/3.jpg")
    message = checked(tmp_path)
    assert repr(first) in message and repr(second) in message
    assert "--relabel" in message and "dog" not in message


def test_labels_that_differ_by_more_are_not_refused(tmp_path: Path) -> None:
    put(tmp_path, "Faces/1.jpg", "Faces_easy/2.jpg", "a-b/3.jpg", "ab/4.jpg")
    datasets.check_labels(datasets.read(str(tmp_path)))


def test_a_single_label_task_of_one_label_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "cat/1.jpg", "cat/2.jpg")
    assert "has 1 label (cat)" in checked(tmp_path)
    datasets.check_labels(datasets.read(str(tmp_path), task="multi"))


def test_all_faults_that_can_be_skipped_are_reported(tmp_path: Path) -> None:
    put(tmp_path / "images", "a.jpg")
    table = tmp_path / "l.csv"
    lines = ["fname,labels,is_valid", "a.jpg,cat,1", "a.jpg,dog,0", "b.jpg,dog,1", "c.jpg", ""]
    table.write_text("\n".join(lines))
    complaints: list[str] = []
    found = datasets.read(str(table), complain=complaints.append)
    assert found.records == (Record("a.jpg", ("cat",), "valid"),)
    for expected in ("line 3: a.jpg is listed twice", "b.jpg does not exist", "expected 3 values"):
        assert sum(expected in complaint for complaint in complaints) == 1
    assert len(complaints) == 3


# The real images.


@pytest.mark.data
@pytest.mark.parametrize(
    ("path", "task", "labels", "trained", "validation"),
    [
        ("pets", "single", 37, 222, 148),
        ("voc2007/train.csv", "multi", 20, 3475, 990),
        ("caltech101", "single", 101, 5784, 0),
    ],
)
def test_the_real_sets_are_read(
    path: str, task: str, labels: int, trained: int, validation: int
) -> None:
    if not (SHARED / path).exists():
        pytest.skip(f"no real images: {path} is not in ../shared/data")
    found = datasets.read(str(SHARED / path))
    assert (found.task, len(found.labels)) == (task, labels)
    assert sum(record.side != "valid" for record in found.records) == trained
    assert sum(record.side == "valid" for record in found.records) == validation
