"""Scores that a network has given already, as a fitted classifier of scikit-learn."""

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin


class GivenScores(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """What it is given as features are its scores: `[N, C]`, of which each row's sum is 1."""

    def __init__(self, labels: int) -> None:
        self.labels = labels
        self.classes_ = np.arange(labels)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, scores: NDArray[np.float32], truth: NDArray[np.intp]) -> "GivenScores":
        return self

    def predict_proba(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        return scores

    def predict(self, scores: NDArray[np.float32]) -> NDArray[np.intp]:
        return np.asarray(scores.argmax(1))
