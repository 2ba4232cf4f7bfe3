import numpy as np

from training.evaluation import error_analysis
from training.reports import plots
from training.run_folder import Epoch

LABELS = ["price_$5_to_$10", "_hidden"]  # a formula and no text, for matplotlib


def test_labels_and_names_of_runs_are_shown_as_they_are_written() -> None:
    truth = np.eye(2, dtype=np.bool_)
    scores = truth.astype(np.float32)
    own = error_analysis.by_label(scores, truth, truth, LABELS)
    epoch = Epoch(
        phase="head", epoch=1, train_loss=1, valid_loss=1, error=0.5, images_per_s=1, seconds=1
    )
    drawn = (
        plots.confusion(np.eye(2, dtype=np.int64), LABELS),
        plots.precision_recall(scores, truth, own, [0, 1]),
        plots.histories({label: [epoch] for label in LABELS}),
    )
    for picture in drawn:
        assert all(label in picture for label in LABELS)
