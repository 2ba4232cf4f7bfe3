import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from models.bundle import sha256
from models.errors import DataError, RunError
from models.manifest import Task
from training.data import near_duplicates, split
from training.data.datasets import Dataset
from training.data.record import Record, Scan, Side
from training.data.split import Split


def name_of(number: int) -> str:
    """The sha256 of a number stands for that of an image."""
    return sha256(str(number).encode())


def dataset(
    labels: Sequence[str | tuple[str, ...]],
    task: Task = "single",
    names: Sequence[str] | None = None,
    sides: Sequence[Side | None] | None = None,
) -> Dataset:
    several = [(label,) if isinstance(label, str) else label for label in labels]
    files = names or [f"{number:04}.jpg" for number in range(len(labels))]
    given = sides or [None] * len(labels)
    records = tuple(map(Record, files, several, given))
    return Dataset(Path("data"), records, tuple(sorted({n for s in several for n in s})), task)


def divided(
    dataset: Dataset,
    contents: Sequence[str],
    valid: float,
    seed: int,
    groups: Sequence[int] | None = None,
) -> Split:
    """The split with the given groups; by default only the same bytes are a group."""
    groups = groups or list(map(contents.index, contents))
    records = tuple(
        replace(record, sha256=content, group=group)
        for record, content, group in zip(dataset.records, contents, groups, strict=True)
    )
    return split.split(replace(dataset, records=records), valid, seed)


def hashes(count: int) -> list[str]:
    return [name_of(number) for number in range(count)]


def validation(sides: Split) -> set[str]:
    return {record.sha256 for record in sides.valid}


def sides_of(sides: Split) -> list[Side | None]:
    """Of each image, in the order of their files."""
    return [record.side for record in sides.records]


def labels_of(records: Sequence[Record]) -> set[str]:
    return {label for record in records for label in record.labels}


def test_each_image_is_on_one_side_in_order_with_all_its_fields() -> None:
    sides = divided(dataset(["cat", "dog"] * 5), hashes(10), 0.2, 42)
    known = [
        Record(f"{n:04}.jpg", (("cat", "dog")[n % 2],), sha256=name_of(n), group=n)
        for n in range(10)
    ]
    assert [replace(record, side=None) for record in sides.records] == known
    for side, name in ((sides.train, "train"), (sides.valid, "valid")):
        assert {record.side for record in side} == {name}
        assert list(side) == [record for record in sides.records if record.side == name]
    assert (len(sides.train), len(sides.valid)) == (8, 2)


def test_the_fraction_of_each_label_validates() -> None:
    labels = ["common"] * 200 + ["rare"] * 20 + ["lone"] * 5
    sides = divided(dataset(labels), hashes(225), 0.2, 42)
    counts = Counter(record.labels[0] for record in sides.valid)
    assert counts == {"common": 40, "rare": 4, "lone": 1}
    halves = divided(dataset(labels), hashes(225), 0.5, 42)
    assert Counter(record.labels[0] for record in halves.valid)["common"] == 100


@pytest.mark.parametrize("task", ["single", "multi"])
def test_the_split_does_not_depend_on_names_or_order(task: Task) -> None:
    labels = ["cat", "dog", "emu"] * 20
    expected = validation(divided(dataset(labels, task), hashes(60), 0.3, 42))
    pairs = list(zip(labels, hashes(60), strict=True))
    random.Random(0).shuffle(pairs)
    shuffled, theirs = [label for label, _ in pairs], [h for _, h in pairs]
    names = [f"elsewhere/{number}.png" for number in range(60)]
    assert validation(divided(dataset(shuffled, task, names), theirs, 0.3, 42)) == expected


def test_the_split_is_the_same_on_every_machine() -> None:
    sides = divided(dataset(["cat"] * 12), hashes(12), 0.25, 42)
    order = sorted(range(12), key=lambda n: sha256(f"42 {name_of(n)}".encode()))
    assert validation(sides) == {name_of(number) for number in order[:3]}
    assert order[:3] == [6, 2, 11]


def test_the_split_depends_on_the_seed() -> None:
    splits = [validation(divided(dataset(["cat"] * 50), hashes(50), 0.2, s)) for s in range(4)]
    assert len(set(map(frozenset, splits))) == 4


def test_a_larger_validation_set_includes_a_smaller_one() -> None:
    few, more = (
        validation(divided(dataset(["cat"] * 50), hashes(50), share, 42)) for share in (0.1, 0.3)
    )
    assert few < more


@pytest.mark.parametrize("seed", range(10))
def test_images_with_the_same_bytes_stay_together(seed: int) -> None:
    contents = [name_of(number % 20) for number in range(60)]
    sides = divided(dataset(["cat", "dog"] * 30), contents, 0.3, seed)
    assert sides.valid
    assert validation(sides).isdisjoint(record.sha256 for record in sides.train)
    assert len(sides.records) == 60


@pytest.mark.parametrize("task", ["single", "multi"])
@pytest.mark.parametrize("seed", range(10))
def test_groups_stay_together_whatever_their_numbers_names_and_order(task: Task, seed: int) -> None:
    groups = [number // 3 for number in range(60)]
    labels = ["cat" if group < 10 else "dog" for group in groups]
    sides = divided(dataset(labels, task), hashes(60), 0.3, seed, groups)
    assert len({(record.group, record.side) for record in sides.records}) == 20
    assert len(sides.valid) == 18
    order = random.Random(seed).sample(range(60), 60)
    turned = divided(
        dataset([labels[n] for n in order], task, [f"x/{n}.png" for n in range(60)]),
        [hashes(60)[n] for n in order],
        0.3,
        seed,
        [-7 * groups[n] for n in order],
    )
    assert validation(turned) == validation(sides)


def test_a_group_is_ordered_by_its_smallest_hash() -> None:
    contents = sorted(hashes(12))
    groups = [number % 6 for number in range(12)]
    sides = divided(dataset(["cat"] * 12), contents, 0.35, 42, groups)
    order = sorted(range(6), key=lambda group: sha256(f"42 {contents[group]}".encode()))
    expected = {contents[n] for group in order[:2] for n in (group, group + 6)}
    assert validation(sides) == expected


@pytest.mark.parametrize("seed", range(5))
def test_a_group_of_two_labels_counts_once_and_leaves_both_something(seed: int) -> None:
    labels = ["cat"] * 10 + ["dog"] * 10
    groups = [number % 10 for number in range(20)]
    sides = divided(dataset(labels), hashes(20), 0.5, seed, groups)
    assert len(sides.valid) == 10
    assert labels_of(sides.train) == {"cat", "dog"}


def test_labels_of_one_group_each_leave_nothing_for_validation() -> None:
    labels = ["cat"] * 5 + ["dog"] * 5
    with pytest.raises(DataError, match="no image for validation: 10 images .* near-duplicates"):
        divided(dataset(labels), hashes(10), 0.5, 42, [0] * 5 + [1] * 5)


def test_near_duplicates_across_a_given_split_are_reported_and_not_moved() -> None:
    given: list[Side] = ["train", "train", "valid", "valid"]
    sides = divided(dataset(["cat"] * 4, sides=given), hashes(4), 0.5, 42, [0, 1, 1, 2])
    assert sides_of(sides) == given
    near = split.straddling(sides.records, lambda record: record.group)
    assert near == [Split(sides.train[1:], sides.valid[:1])]
    assert split.straddling(sides.records, lambda record: record.sha256) == []


@pytest.mark.parametrize("seed", range(40))
def test_many_copies_of_one_image_do_not_exceed_the_fraction(seed: int) -> None:
    contents = [name_of(max(number - 5, 0)) for number in range(20)]  # six copies of one
    assert len(divided(dataset(["cat"] * 20), contents, 0.2, seed).valid) == 4


@pytest.mark.parametrize("valid", [0.01, 0.2, 0.5, 0.99])
def test_every_label_keeps_an_image_to_train_on(valid: float) -> None:
    labels = ["lone"] + ["pair"] * 2 + ["twins"] * 2 + ["many"] * 30
    contents = [name_of(n) for n in (0, 1, 2, 3, 3, *range(10, 40))]
    sides = divided(dataset(labels), contents, valid, 42)
    assert labels_of(sides.train) == {"lone", "pair", "twins", "many"}
    assert labels_of(sides.valid) == {"pair", "many"}


@pytest.mark.parametrize("seed", range(10))
def test_every_label_of_multi_label_images_keeps_one_to_train_on(seed: int) -> None:
    labels = [("rare", "common"), ("odd",), *[("common",)] * 10, *[()] * 10]
    sides = divided(dataset(labels, "multi"), hashes(22), 0.5, seed)
    assert labels_of(sides.train) == {"rare", "odd", "common"}
    assert len(sides.valid) == 11


@pytest.mark.parametrize("seed", range(10))
def test_the_same_bytes_under_two_labels_leave_both_something_to_train_on(seed: int) -> None:
    """Whatever their order: ten cats, two of which are also labelled dog."""
    labels = ["cat"] * 10 + ["dog"] * 2
    contents = [*hashes(10), name_of(0), name_of(1)]
    sides = divided(dataset(labels), contents, 0.6, seed)
    assert labels_of(sides.train) == {"cat", "dog"}
    turned = divided(dataset(labels[::-1]), contents[::-1], 0.6, seed)
    assert validation(turned) == validation(sides)


def test_an_official_split_is_used_as_it_is() -> None:
    given: list[Side] = ["valid" if number in (1, 2, 7) else "train" for number in range(10)]
    sides = divided(dataset(["cat", "dog"] * 5, sides=given), hashes(10), 0.5, 42)
    assert sides_of(sides) == given


def test_an_official_split_with_an_image_on_both_sides_is_refused_by_name() -> None:
    contents = [name_of(n) for n in (1, 1, 2, 3)]
    with pytest.raises(DataError) as caught:
        divided(dataset(["cat"] * 4, sides=["train", "valid"] * 2), contents, 0.5, 42)
    assert "1 image on both sides of the given split: 0000" in str(caught.value)
    assert "split: 0000.jpg, 0001.jpg: `python -m training inspect" in str(caught.value)
    assert "--quarantine" in str(caught.value)
    assert "0002.jpg" not in str(caught.value)


def test_of_many_images_on_both_sides_four_are_named() -> None:
    contents = [name_of(number // 2) for number in range(8)]
    with pytest.raises(DataError, match="^4 images on both sides") as caught:
        divided(dataset(["cat"] * 8, sides=["train", "valid"] * 4), contents, 0.5, 42)
    assert "split: 0000.jpg, 0001.jpg, 0002.jpg, 0003.jpg and 4 more: " in str(caught.value)


def test_an_official_split_may_repeat_an_image_on_one_side() -> None:
    contents = [name_of(n) for n in (1, 1, 2, 2)]
    given: list[Side] = ["valid", "valid", "train", "train"]
    assert sides_of(divided(dataset(["a"] * 4, sides=given), contents, 0.5, 42)) == given


@pytest.mark.parametrize(
    ("labels", "sides", "side"),
    [
        (["cat", "dog"], None, "validation"),
        (["cat", "dog"], ["train", "train"], "validation"),
        (["cat", "dog"], ["valid", "valid"], "training"),
    ],
)
def test_a_side_left_empty_is_refused(
    labels: list[str], sides: list[Side] | None, side: str
) -> None:
    with pytest.raises(DataError, match=f"no image for {side}: 2 images in all"):
        divided(dataset(labels, sides=sides), hashes(2), 0.5, 42)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    sides = Split(
        (Record("not-utf-8-\udcff.jpg", (), "train", name_of(1)),),
        (Record("Ä ö\u2028/\x85.jpg", ("kläffer", "x y"), "valid", name_of(0)),),
    )
    split.write(tmp_path / "split.jsonl", sides)
    assert split.read(tmp_path / "split.jsonl") == sides
    lines = (tmp_path / "split.jsonl").read_text().splitlines()
    assert [json.loads(line)["is_valid"] for line in lines] == [False, True]


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]\n", b'{"file": "a.jpg"}\n', b"\xff\n", b"3\n", b'{"labels": ["x"], "more": 1}\n'],
)
def test_a_corrupt_file_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "split.jsonl"
    file.write_bytes(content)
    with pytest.raises(RunError, match="split.jsonl is missing or corrupt"):
        split.read(file)
    file.unlink()
    with pytest.raises(RunError, match="split.jsonl is missing or corrupt"):
        split.read(file)


def test_the_fingerprint_covers_contents_labels_and_sides() -> None:
    valid = tuple(Record(f"{n}.jpg", ("cat",), "valid", name_of(n)) for n in range(2))
    train = tuple(Record(f"{n}.jpg", ("cat",), "train", name_of(n)) for n in range(2, 6))
    expected = Split(train, valid).fingerprint()
    assert expected == "85c68979c3a90846cd753976127f2b2886fd90a4d8ca57067d8aefc0ab4537d5"
    renamed = Split(
        *(tuple(replace(r, file=f"{9 - int(r.file[0])}.png") for r in s) for s in (train, valid))
    )
    assert renamed.fingerprint() == expected
    first, *rest = train
    for changed in (
        replace(first, sha256=name_of(99)),
        replace(first, labels=("dog",)),
        replace(first, side="valid"),
    ):
        assert Split((changed, *rest), valid).fingerprint() != expected
    assert Split(tuple(rest), valid).fingerprint() != expected


def joined(*parts: Sequence[Record]) -> Dataset:
    """Several DATA as one: the records of each, with its number."""
    records = [
        replace(record, file=f"{'../' * source}{source}/{record.file}", source=source)
        for source, part in enumerate(parts)
        for record in part
    ]
    records = near_duplicates.group(sorted(records, key=lambda record: record.file))
    labels = sorted({label for record in records for label in record.labels})
    return Dataset(Path("data"), tuple(records), tuple(labels), "single")


def pictures(
    numbers: Sequence[int], labels: Sequence[str] = ("cat", "dog"), side: Side | None = None
) -> list[Record]:
    """Records that differ in content; each picture's perceptual hash is far from the others'."""
    return [
        Record(
            f"{number:04}.jpg",
            (labels[number % len(labels)],),
            side,
            sha256=name_of(number),
            scan=Scan(perceptual=int(name_of(number)[:15], 16)),
        )
        for number in numbers
    ]


def own_sides(sides: Split) -> dict[str, Side | None]:
    return {record.sha256: record.side for record in sides.records}


def test_the_split_of_the_first_data_stays_whatever_is_added() -> None:
    one, two, three = pictures(range(30)), pictures(range(30, 90)), pictures(range(90, 110))
    alone = own_sides(split.split(joined(one), 0.2, 42))
    both = own_sides(split.split(joined(one, two), 0.2, 42))
    all_three = own_sides(split.split(joined(one, two, three), 0.2, 42))
    assert alone.items() <= both.items() <= all_three.items()
    assert list(both.values()).count("valid") == 6 + 12
    # together they would be split otherwise, so it is no coincidence
    together = own_sides(split.split(joined([*one, *two]), 0.2, 42))
    assert not alone.items() <= together.items()


def test_an_image_alike_to_one_of_an_earlier_data_follows_it() -> None:
    one = pictures(range(40))
    alone = own_sides(split.split(joined(one), 0.5, 42))
    alike = [replace(record, sha256=name_of(1000 + number)) for number, record in enumerate(one)]
    sides = own_sides(split.split(joined(one, [*alike, *one, *pictures(range(50, 60))]), 0.5, 42))
    for number, record in enumerate(one):
        assert sides[name_of(1000 + number)] == sides[record.sha256] == alone[record.sha256]


@pytest.mark.parametrize("last", ["train", "valid"])
def test_an_image_that_joins_both_sides_of_an_earlier_data_is_not_trained_on(last: Side) -> None:
    first, second = 0b11110000, 0b11111111_11110000  # eight bits apart: not alike
    between = 0b1111_11110000
    one = pictures(range(10), ["cat"])
    sides = own_sides(split.split(joined(one), 0.5, 42))
    late = max(n for n in range(10) if sides[name_of(n)] == last)
    early = min(n for n in range(late) if sides[name_of(n)] != last)
    one[early] = replace(one[early], scan=Scan(perceptual=first))
    one[late] = replace(one[late], scan=Scan(perceptual=second))
    bridge = Record("b.jpg", ("cat",), sha256=name_of(99), scan=Scan(perceptual=between))
    after = own_sides(split.split(joined(one, [bridge]), 0.5, 42))
    assert sides.items() <= after.items()
    assert after[name_of(99)] == "valid"


def test_an_official_split_of_any_data_is_kept() -> None:
    given = [*pictures(range(5), side="train"), *pictures(range(5, 8), side="valid")]
    free = pictures(range(20, 60))
    for parts in ((given, free), (free, given)):
        sides = own_sides(split.split(joined(*parts), 0.25, 42))
        assert own_sides(Split(tuple(given), ())).items() <= sides.items()
        assert [sides[record.sha256] for record in free].count("valid") == 10


def test_a_new_label_of_a_later_data_keeps_an_image_to_train_on() -> None:
    new = pictures(range(60, 64), ["emu"])
    sides = split.split(joined(pictures(range(40)), new), 0.5, 42)
    assert "emu" in labels_of(sides.train)
    assert "emu" in labels_of(sides.valid)


def test_the_last_image_of_a_label_may_validate_if_an_earlier_data_trains_on_the_label() -> None:
    sides = split.split(joined(pictures(range(40)), pictures([60], ["cat"])), 0.5, 42)
    assert own_sides(sides)[name_of(60)] == "valid"
