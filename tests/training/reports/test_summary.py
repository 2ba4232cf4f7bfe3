from collections.abc import Sequence

import numpy as np

from training.data.record import Record
from training.evaluation import evaluate
from training.evaluation.evaluate import Evaluation
from training.reports import summary
from training.run_folder import Epoch


def evaluation(task: str, images: int = 40) -> Evaluation:
    """Two labels, of which the second has three images; one image in four is wrong."""
    targets = np.zeros((images, 2), np.bool_)
    targets[:, 0] = True
    targets[:3] = [False, True]
    wrong = np.arange(images) % 4 == 0
    scores = np.where(targets ^ wrong[:, None], 0.8, 0.2).astype(np.float32)
    return Evaluation(
        "single" if task == "single" else "multi",
        ("cat", "dog"),
        [Record(f"{n}.jpg", ("cat",), "valid") for n in range(images)],
        lambda rows: np.zeros((len(rows), 8, 8, 3), np.uint8),
        targets,
        scores,
        scores,
        scores >= 0.5,
    )


def of(task: str, epochs: Sequence[Epoch] = ()) -> summary.Verdict:
    found = evaluation(task)
    return summary.of(found, found.measure(), epochs)


def epochs(*losses: float) -> list[Epoch]:
    """One of the head, then one of the whole network with each of the validation losses."""
    rows = [("head", 0.1), *(("whole", loss) for loss in losses)]
    return [
        Epoch(
            phase=phase, epoch=number, train_loss=0, valid_loss=loss, images_per_s=1, seconds=number
        )
        for number, (phase, loss) in enumerate(rows, 1)
    ]


def test_the_headline_is_the_error_with_its_interval_and_the_majority_baseline() -> None:
    found = of("single")
    assert found.headline == "Wrong on 25.0% of 40 images"
    metric = evaluation("single").measure()["error"]
    assert found.certainty == (
        f"Between {metric.low:.1%} and {metric.high:.1%} with 95 % confidence. Always predicting"
        " “cat” would be wrong on 7.5%."
    )


def test_the_headline_of_tags_is_average_precision_beside_chance_and_no_tags() -> None:
    found = of("multi")
    value = evaluation("multi").measure()["map"].value
    assert found.headline == f"Mean average precision {value:.3f} on 40 images"
    assert "random tags would reach about 0.500" in found.certainty
    assert "75.0% of image-label pairs are right; predicting no tags would reach 50.0%" in (
        found.certainty
    )


def test_notes_mention_calibration_few_images_and_confusion() -> None:
    calibration, few, confused = of("single").notes
    assert calibration.startswith("Its probabilities are off by ")
    assert few.startswith("1 of 2 labels with fewer than 10 images here, too few for metrics")
    assert confused == "Most often, cat is predicted as dog: 9 times."


def test_a_rising_validation_loss_is_overfitting() -> None:
    assert any("It overfits: " in note for note in of("single", epochs(0.5, 0.4, 0.6)).notes)
    assert any("after epoch 2 of 3" in note for note in of("single", epochs(0.5, 0.4, 0.6)).notes)


def test_a_run_that_kept_its_best_epoch_does_not_overfit() -> None:
    found = evaluation("single")
    notes = summary.of(found, found.measure(), epochs(0.5, 0.4, 0.6), best_kept=True).notes
    assert notes == of("single").notes


def test_a_loss_that_still_falls_suggests_more_epochs() -> None:
    assert any("more epochs may help" in note for note in of("single", epochs(0.6, 0.4)).notes)


def test_a_loss_that_has_settled_adds_no_note() -> None:
    before = len(of("single").notes)
    assert len(of("single", epochs(0.5, 0.4, 0.395)).notes) == before
    assert len(of("single", epochs(0.5)).notes) == before


def test_the_headline_metric_is_one_of_those_measured() -> None:
    for task in ("single", "multi"):
        assert evaluate.HEADLINE[evaluation(task).task] in evaluation(task).measure()
