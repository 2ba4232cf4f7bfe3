import numpy as np
import pytest
import torch

from models.errors import DataError
from training.evaluation import comparison
from training.evaluation.comparison import Difference
from training.evaluation.evaluate import Evaluation
from training.run_folder import Run
from training.side_by_side import contrast, held_out
from training.side_by_side.contrast import Contrast

CPU = torch.device("cpu")


def judged(*runs: Run) -> list[Evaluation]:
    return contrast.judge(runs, held_out.find(runs), None, CPU)


def contrasted(*runs: Run) -> Contrast:
    return contrast.contrasts(runs, judged(*runs))[0]


def test_each_run_has_the_figures_of_its_own_report(run: Run, spoilt: Run) -> None:
    found = contrasted(spoilt, run)
    assert found.headline in found.figures
    for name, figure in found.figures.items():
        assert figure.candidate == pytest.approx(run.outcome.metrics[name].value, abs=1e-5)
    assert "accuracy_all_negative" not in found.figures
    assert contrast.direction(found.headline, found.figures[found.headline]) == "better"
    turned = contrasted(run, spoilt)
    assert contrast.direction(found.headline, turned.figures[found.headline]) == "worse"
    for name, figure in turned.figures.items():
        assert figure.released == found.figures[name].candidate


def test_a_run_does_not_differ_from_itself(run: Run) -> None:
    found = contrasted(run, run)
    for name, figure in found.figures.items():
        assert figure.value == 0 and figure.low < 0 < figure.high
        assert contrast.direction(name, figure) == ""
    assert not (found.lost or found.won or found.worse or found.better)


def test_the_images_are_those_that_only_one_run_gets_wrong(
    single_run: Run, spoilt_single: Run
) -> None:
    first, other = evaluations = judged(single_run, spoilt_single)
    found = contrast.contrasts([single_run, spoilt_single], evaluations)[0]
    ours, theirs = (e.scores.argmax(1) != e.targets.argmax(1) for e in (other, first))
    assert found.lost == np.flatnonzero(ours & ~theirs).tolist() != []
    assert found.won == np.flatnonzero(theirs & ~ours).tolist()


def test_of_several_labels_the_number_that_is_wrong_decides(multi_run: Run) -> None:
    (first, other) = judged(multi_run, multi_run)
    predicted = first.predicted.copy()
    predicted[0] ^= True
    changed = contrast.contrast(
        "a", "b", first, Evaluation(**{**vars(other), "predicted": predicted}), 0.975
    )
    wrong = int((first.predicted[0] != first.targets[0]).sum())
    assert (changed.lost, changed.won) == (([0], []) if wrong < 2 else ([], [0]))


def test_labels_beyond_chance_are_found_in_both_directions(
    single_run: Run, spoilt_single: Run
) -> None:
    first, other = judged(single_run, spoilt_single)
    found = contrast.contrast("a", "b", first, other, 0.975)
    turned = contrast.contrast("b", "a", other, first, 0.975)
    assert found.worse and not found.better
    assert turned.better == found.worse and not turned.worse


def test_intervals_are_two_sided_and_hold_for_all_comparisons_together(
    single_run: Run, spoilt_single: Run
) -> None:
    runs = [single_run, spoilt_single, single_run]
    evaluations = judged(*runs)
    alone, (one, two) = (
        contrast.contrasts(runs[:2], evaluations[:2])[0],
        contrast.contrasts(runs, evaluations),
    )
    assert alone.level == pytest.approx(0.975) and one.level == pytest.approx(0.9875)
    wrong = [found.predicted.argmax(1) != found.targets.argmax(1) for found in evaluations]
    for found in (alone, one):
        assert found.figures["error"] == comparison.errors(wrong[1], wrong[0], level=found.level)
    assert one.figures["nll"].low < alone.figures["nll"].low
    assert two.figures["error"].value == 0


def test_each_network_gets_its_own_pixels(single_run: Run, spoilt_single: Run) -> None:
    smaller = spoilt_single.outcome.preprocess.model_copy(update={"crop_fraction": 0.5})
    changed = Run(
        spoilt_single.path,
        spoilt_single.outcome.model_copy(update={"preprocess": smaller}),
        spoilt_single.split,
    )
    first, other, cropped = judged(single_run, spoilt_single, changed)
    assert not np.array_equal(cropped.scores, other.scores)
    assert not np.array_equal(cropped.images_at([0]), first.images_at([0]))
    assert np.array_equal(other.images_at([3, 1]), first.images_at([3, 1]))


def test_an_image_that_has_changed_is_refused(
    single_run: Run, spoilt_single: Run, tmp_path: object
) -> None:
    with pytest.raises(DataError, match="missing or has changed"):
        contrast.judge(
            [single_run, spoilt_single],
            held_out.find([single_run, spoilt_single]),
            str(spoilt_single.path.parent),
            CPU,
        )


@pytest.mark.parametrize(
    ("name", "low", "high", "expected"),
    [
        ("error", -0.2, -0.1, "better"),
        ("error", 0.1, 0.2, "worse"),
        ("map", 0.1, 0.2, "better"),
        ("map", -0.2, -0.1, "worse"),
        ("error", -0.2, 0.0, ""),
        ("map", 0.0, 0.2, ""),
    ],
)
def test_better_depends_on_the_metric_and_is_not_said_of_an_interval_with_0(
    name: str, low: float, high: float, expected: str
) -> None:
    middle = (low + high) / 2
    assert contrast.direction(name, Difference(0.5 + middle, 0.5, low, high, 1.0)) == expected


def test_equal_models_are_called_different_no_more_often_than_in_one_case_of_twenty() -> None:
    """At 90 %, as a release's bounds are read, it would be one of ten."""
    random, called = np.random.default_rng(0), 0
    for _ in range(600):
        kinds = random.choice(3, 200, p=[0.8, 0.1, 0.1])
        found = comparison.errors(kinds == 1, kinds == 2, level=1 - 0.05 / 2)
        called += contrast.direction("error", found) != ""
    assert called / 600 < 0.05 + 2 * (0.05 * 0.95 / 600) ** 0.5
