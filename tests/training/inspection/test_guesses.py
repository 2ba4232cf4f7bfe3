from training.data.corrections import Correction
from training.data.record import Record
from training.inspection import guesses

LABELS = ("cat", "dog", "emu")


def record(file: str, labels: tuple[str, ...], **scores: float) -> Record:
    return Record(file, labels, guess=tuple(sorted(scores.items(), key=lambda pair: -pair[1])))


def test_the_next_likeliest_label_is_suggested_and_the_least_sure_comes_first() -> None:
    records = [
        record("a.jpg", ("cat",), cat=0.75, emu=0.125, dog=0.125),
        record("b.jpg", ("dog",), dog=0.5, emu=0.375, cat=0.125),
        Record("own.jpg", ("cat",)),  # not captured: somebody gave it its label
    ]
    assert guesses.find(records, LABELS, "single") == [
        Correction("b.jpg", "dog", "emu", 0.5),
        Correction("a.jpg", "cat", "emu", 0.25),
    ]


def test_only_labels_that_there_are_are_suggested() -> None:
    records = [record("a.jpg", ("cat",), cat=0.75, gnu=0.25)]
    assert guesses.find(records, ("cat", "dog"), "single") == [
        Correction("a.jpg", "cat", "dog", 0.25)
    ]
    assert guesses.find(records, ("cat",), "single") == []


def test_a_tag_may_have_to_go_and_the_likeliest_other_may_be_missing() -> None:
    records = [
        record("a.jpg", ("cat", "dog"), cat=0.875, dog=0.5, emu=0.25),
        record("b.jpg", (), cat=0.375, dog=0.125),
    ]
    assert guesses.find(records, LABELS, "multi") == [
        Correction("a.jpg", "dog", "", 0.5),
        Correction("b.jpg", "", "cat", 0.375),
        Correction("a.jpg", "", "emu", 0.25),
        Correction("a.jpg", "cat", "", 0.125),
    ]


def test_what_was_corrected_already_is_sure() -> None:
    records = [record("a.jpg", ("fox",), cat=0.75, dog=0.25)]
    assert guesses.find(records, ("cat", "fox"), "single") == [
        Correction("a.jpg", "fox", "cat", 0.0)
    ]
