from dataclasses import replace
from typing import Any

import pytest

from models.errors import RunError
from training.data.split import Split
from training.run_folder import Run
from training.side_by_side import held_out


def with_split(run: Run, train: Any, valid: Any) -> Run:
    return replace(run, split=Split(tuple(train), tuple(valid)))


def with_outcome(run: Run, **changes: Any) -> Run:
    return replace(run, outcome=run.outcome.model_copy(update=changes))


def test_runs_with_one_split_are_judged_on_all_validation_images(run: Run) -> None:
    found = held_out.find([run, run])
    assert found.records == list(run.split.valid)
    assert list(found.only) == [0, 0] and not found.relabelled


def test_an_image_that_any_run_trained_on_or_never_had_is_left_out(single_run: Run) -> None:
    trained, unknown, *shared = single_run.split.valid
    other = with_split(single_run, [*single_run.split.train[1:], trained], shared)
    back = single_run.split.train[0]
    more = with_split(single_run, single_run.split.train[1:], [*single_run.split.valid, back])
    found = held_out.find([single_run, other])
    assert found.records == shared
    assert list(found.only) == [2, 0]
    assert unknown not in found.records
    assert list(held_out.find([more, other]).only) == [3, 0]
    assert held_out.find([single_run, more, other]).records == shared
    both = with_split(single_run, [*single_run.split.train, trained], single_run.split.valid)
    assert trained not in held_out.find([single_run, both]).records


def test_an_image_that_has_other_labels_in_one_run_is_left_out_and_named(single_run: Run) -> None:
    first, *rest = single_run.split.valid
    renamed = replace(first, labels=("red" if first.labels != ("red",) else "blue",))
    other = with_split(single_run, single_run.split.train, [renamed, *rest])
    found = held_out.find([single_run, other])
    assert found.records == rest and found.relabelled == [first]
    assert list(found.only) == [0, 0]


def test_runs_of_different_tasks_are_refused(single_run: Run, multi_run: Run) -> None:
    with pytest.raises(RunError, match="is single-label and .* is multi-label: only runs of the"):
        held_out.find([single_run, multi_run])


@pytest.mark.parametrize("swapped", [False, True])
def test_labels_that_only_one_run_has_are_named(single_run: Run, swapped: bool) -> None:
    other = with_outcome(single_run, labels=(*single_run.outcome.labels, "violet", "yellow"))
    runs = [other, single_run] if swapped else [single_run, other]
    with pytest.raises(RunError, match="the labels differ: only .* has violet, yellow"):
        held_out.find(runs)


def test_runs_without_a_common_image_are_refused(single_run: Run) -> None:
    other = with_split(single_run, single_run.split.valid, single_run.split.train)
    with pytest.raises(RunError, match="no image is in the validation images of all of"):
        held_out.find([single_run, other])


def test_runs_whose_common_images_all_differ_in_their_labels_are_refused(single_run: Run) -> None:
    renamed = [replace(record, labels=("violet",)) for record in single_run.split.valid]
    other = with_split(single_run, single_run.split.train, renamed)
    with pytest.raises(RunError, match="each of the 24 images .* has other labels"):
        held_out.find([single_run, other])
