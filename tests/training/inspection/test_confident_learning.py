import numpy as np
import pytest
from numpy.typing import NDArray

from training.inspection import confident_learning
from training.inspection.confident_learning import Issue, confident, doubts, find

Scores = NDArray[np.float32]


def drawn(seed: int, images: int, labels: int) -> tuple[Scores, NDArray[np.bool_]]:
    """Scores that are right more often than not, and targets; some of the labels are rare."""
    random = np.random.default_rng(seed)
    shares = random.dirichlet(np.full(labels, 2))
    given = np.concatenate([np.arange(labels), random.choice(labels, images - labels, p=shares)])
    logits = random.normal(0, 1.5, (images, labels)) + 2 * np.eye(labels)[given]
    exponents = np.exp(logits)
    scores = (exponents / exponents.sum(1, keepdims=True)).astype(np.float32)
    return scores, np.eye(labels, dtype=bool)[given]


@pytest.mark.parametrize("seed", range(4))
def test_the_confident_label_is_that_of_the_paper(seed: int) -> None:
    """By the definition of the confident joint, in loops."""
    scores, targets = drawn(seed, 60, 4)
    given = targets.argmax(1)
    expected = []
    for row in scores:
        reached = {}
        for label in range(4):
            own = [s[label] for s, g in zip(scores, given, strict=True) if g == label]
            if row[label] >= np.mean(own, dtype=np.float64):
                reached[label] = row[label]
        expected.append(max(reached, key=reached.__getitem__) if reached else -1)
    assert len(set(expected)) > 3
    assert confident(scores, given).tolist() == expected


def test_as_many_are_suspect_as_are_confident_of_another_label_the_least_likely_first() -> None:
    scores, targets = drawn(1, 300, 5)
    given, rows = targets.argmax(1), np.arange(300)
    chosen = confident(scores, given, 0.7)
    likeliest = scores.argmax(1)
    count = int(((chosen >= 0) & (chosen != given) & (likeliest != given)).sum())
    found = find(scores, targets, "single")
    assert 5 < len(found) == count < int((likeliest != given).sum())
    own = scores[rows, given].astype(np.float64)
    doubted = sorted(own[likeliest != given].tolist())
    assert [issue.sure for issue in found] == [1 - value for value in doubted[:count]]
    for issue in found:
        assert issue.given == given[issue.row] != issue.suggested == likeliest[issue.row]


def test_a_label_of_which_nothing_is_known_is_not_judged() -> None:
    scores, targets = drawn(2, 300, 5)
    assert any(targets[issue.row, 3] for issue in find(scores, targets, "single"))
    others = np.flatnonzero(~targets[:, 3])
    expected = find(scores[others], targets[others], "single")
    scores[targets[:, 3], 3] = np.nan
    found = find(scores, targets, "single")
    assert [issue.row for issue in found] == [int(others[issue.row]) for issue in expected] != []


def test_each_tag_is_judged_on_its_own() -> None:
    random = np.random.default_rng(0)
    targets = random.random((200, 2)) < 0.3
    scores = np.where(targets, 0.8, 0.1) + random.normal(0, 0.02, (200, 2))
    scores[5] = np.where(targets[5], 0.04, 0.93)
    scores[7, 1] = 0.03 if targets[7, 1] else 0.9
    found = find(scores.astype(np.float32), targets, "multi")
    changes = {(i.row, i.given, i.suggested) for i in found}
    expected = set()
    for row, column in ((5, 0), (5, 1), (7, 1)):
        has = bool(targets[row, column])
        expected.add((row, column if has else None, None if has else column))
    assert changes == expected


def test_a_tag_of_which_nothing_is_known_is_not_judged() -> None:
    targets = np.eye(2, dtype=bool)[np.arange(20) % 2]
    scores = np.where(targets, 0.9, 0.1).astype(np.float32)
    scores[3] = scores[3, ::-1]
    assert [i.row for i in find(scores, targets, "multi")] == [3, 3]
    scores[3, 1] = np.nan
    assert [(i.row, i.suggested) for i in find(scores, targets, "multi")] == [(3, 0)]


def test_a_tag_that_is_rather_not_there_is_not_missing() -> None:
    """Its score is above the mean of the images that have it, as that mean is low."""
    targets = np.array([[True]] * 3 + [[False]] * 7)
    scores = np.array([[0.3]] * 3 + [[0.05]] * 6 + [[0.45]], np.float32)
    assert find(scores, targets, "multi") == []
    scores[-1] = 0.55
    assert [issue.row for issue in find(scores, targets, "multi")] == [9]


def test_scores_that_agree_leave_no_suspect() -> None:
    targets = np.eye(3, dtype=bool)[np.arange(30) % 3]
    scores = np.where(targets, 0.8, 0.1).astype(np.float32)
    assert find(scores, targets, "single") == []
    assert find(scores, targets, "multi") == []


def test_an_issue_says_what_it_is() -> None:
    targets = np.eye(2, dtype=bool)[[0, 0, 0, 1, 1, 1]]
    scores = np.array([[0.9, 0.1]] * 3 + [[0.2, 0.8]] * 2 + [[0.99, 0.01]], np.float32)
    (found,) = confident_learning.find(scores, targets, "single")
    assert found == Issue(5, 1, 0, 1 - float(np.float32(0.01)))


def test_where_labels_are_easy_each_wrong_one_is_found() -> None:
    """The mean of the scores for a label is then so high that half of the images are below it."""
    given = np.arange(300) % 3
    scores = np.full((300, 3), 0.005, np.float32)
    scores[np.arange(300), given] = np.linspace(0.97, 0.999, 300)
    wrong = [3, 4, 5]
    scores[wrong, given[wrong]] = 0.02
    scores[wrong, (given[wrong] + 1) % 3] = 0.95
    assert (confident(scores, given)[wrong] == -1).all()
    found = find(scores, np.eye(3, dtype=bool)[given], "single")
    assert sorted(issue.row for issue in found) == wrong


def test_tags_to_take_away_and_to_add_are_listed_in_turn_each_the_surest_first() -> None:
    targets = np.zeros((100, 2), bool)
    targets[:50, 0] = targets[:40, 1] = True
    scores = np.where(targets, 0.8, 0.1).astype(np.float32)
    scores[[0, 1, 2], 1] = 0.02, 0.01, 0.03
    scores[60, 0], scores[61, 1] = 0.93, 0.97
    expected = [(1, 1, None), (61, None, 1), (0, 1, None), (60, None, 0), (2, 1, None)]
    found = find(scores, targets, "multi")
    assert [(i.row, i.given, i.suggested) for i in found] == expected
    assert [i.sure for i in found] == pytest.approx([0.99, 0.97, 0.98, 0.93, 0.97])


def test_a_doubt_is_1_minus_the_score_for_what_is_given() -> None:
    scores = np.array([[0.7, 0.2, np.nan]], np.float32)
    targets = np.array([[True, False, False]])
    np.testing.assert_allclose(doubts(scores, targets, "single"), [[0.3, 0, np.nan]], atol=1e-6)
    np.testing.assert_allclose(doubts(scores, targets, "multi"), [[0.3, 0.2, np.nan]], atol=1e-6)
