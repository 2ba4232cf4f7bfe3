import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as peer

from training.evaluation import error_analysis
from training.evaluation.decisions import decide

LABELS = ["cat", "dog", "eel", "fox"]


def single(images: int = 60) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
    """Scores, predicted labels and targets."""
    random = np.random.default_rng(0)
    scores = random.dirichlet(np.ones(4), images).astype(np.float32)
    return (
        scores,
        decide(scores, None),
        np.eye(4, dtype=bool)[random.integers(0, 3, images)],
    )


def multi(images: int = 60) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
    random = np.random.default_rng(1)
    scores = random.random((images, 4)).astype(np.float32)
    targets = random.random((images, 4)) < 0.3
    targets[:, 3] = False
    return scores, scores >= 0.5, targets


def test_the_confusion_matrix_matches_scikit_learn() -> None:
    _, predicted, targets = single()
    expected = peer.confusion_matrix(targets.argmax(1), predicted.argmax(1), labels=range(4))
    assert np.array_equal(error_analysis.confusion(predicted, targets), expected)


def test_most_confused_pairs_come_first_and_rare_ones_can_be_left_out() -> None:
    matrix = np.array([[9, 3, 0], [5, 9, 1], [0, 0, 9]])
    found = error_analysis.most_confused(matrix, LABELS[:3])
    assert [(pair.true, pair.predicted, pair.count) for pair in found] == [
        ("dog", "cat", 5),
        ("cat", "dog", 3),
        ("dog", "eel", 1),
    ]
    assert len(error_analysis.most_confused(matrix, LABELS[:3], min_count=3)) == 2
    assert error_analysis.most_confused(np.diag([4, 4]), LABELS[:2]) == []


@pytest.mark.parametrize("task", ["single", "multi"])
def test_metrics_of_labels_match_scikit_learn(task: str) -> None:
    scores, predicted, targets = single() if task == "single" else multi()
    found = error_analysis.by_label(scores, predicted, targets, LABELS)
    precision, recall, _, images = peer.precision_recall_fscore_support(
        targets, predicted, zero_division=0
    )
    assert [one.label for one in found] == LABELS
    for number, one in enumerate(found):
        assert (one.images, one.predicted) == (images[number], predicted[:, number].sum())
        assert (one.precision or 0) == pytest.approx(precision[number])
        assert (one.recall or 0) == pytest.approx(recall[number])
        if images[number]:
            expected = peer.average_precision_score(targets[:, number], scores[:, number])
            assert one.average_precision == pytest.approx(expected)
    assert found[3].images == 0 and found[3].recall is found[3].average_precision is None


def test_top_losses_of_single_label_are_the_wrong_images_with_the_least_likely_true_label() -> None:
    scores, predicted, targets = single()
    found = error_analysis.top_losses(scores, predicted, targets, "single", 10)
    truth = scores[targets]
    wrong = [row for row in np.argsort(truth) if not (predicted & targets)[row].any()]
    assert [one.row for one in found] == wrong[:10]
    first = found[0]
    assert first.loss == pytest.approx(-np.log(truth[first.row]), rel=1e-5)
    assert predicted[first.row, first.predicted] and targets[first.row, first.true]


def test_top_losses_of_multi_label_name_the_costliest_wrong_label() -> None:
    scores = np.array([[0.9, 0.2], [0.6, 0.1], [0.1, 0.05]], np.float32)
    targets = np.array([[1, 0], [0, 0], [0, 1]], np.bool_)
    found = error_analysis.top_losses(scores, scores >= 0.5, targets, "multi", 10)
    assert [(one.row, one.predicted, one.true) for one in found] == [(2, None, 1), (1, 0, None)]
    expected = peer.log_loss(targets[2], scores[2].astype(float))
    assert found[0].loss == pytest.approx(expected, rel=1e-5)


def test_there_are_no_mistakes_if_all_is_predicted_correctly() -> None:
    targets = np.eye(4, dtype=bool)
    assert (
        error_analysis.top_losses(targets.astype(np.float32), targets, targets, "single", 5) == []
    )


def test_the_sweep_matches_scikit_learn_at_each_threshold() -> None:
    scores, _, targets = multi()
    found = error_analysis.sweep(scores, targets)
    for place in (10, 50, 90):
        tags = scores >= np.float32(found.thresholds[place])
        assert found.micro_f1[place] == pytest.approx(peer.f1_score(targets, tags, average="micro"))
        assert found.precision[place] == pytest.approx(
            peer.precision_score(targets, tags, average="micro")
        )
        assert found.recall[place] == pytest.approx(
            peer.recall_score(targets, tags, average="micro")
        )
        assert found.accuracy[place] == pytest.approx((tags == targets).mean())
