from training.data.record import Record
from training.evaluation.novelty import chosen


def records(labels: str) -> list[Record]:
    """One record for each letter, which is its label; hashes fall."""
    return [
        Record(f"{number}.jpg", (label,), sha256=f"{99 - number:064}")
        for number, label in enumerate(labels)
    ]


def test_the_images_are_as_even_over_the_labels_as_they_can_be() -> None:
    some = chosen(records("cbbbaaaaaaaa"), "single", 7)
    assert sorted(record.labels[0] for record in some) == ["a", "a", "a", "b", "b", "b", "c"]


def test_of_each_label_the_smallest_hashes_are_taken_whatever_the_order() -> None:
    listed = records("ababab")
    some = chosen(listed, "single", 4)
    assert {record.file for record in some} == {"2.jpg", "3.jpg", "4.jpg", "5.jpg"}
    assert chosen(listed[::-1], "single", 4) == some


def test_multi_label_images_are_taken_by_their_hash_alone() -> None:
    listed = records("aaaaab")
    assert [record.file for record in chosen(listed, "multi", 2)] == ["5.jpg", "4.jpg"]
    assert [record.file for record in chosen(listed[:5], "multi", 2)] == ["4.jpg", "3.jpg"]


def test_few_images_are_all_taken() -> None:
    assert len(chosen(records("abc"), "single", 10)) == 3
