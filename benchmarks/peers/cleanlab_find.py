"""cleanlab's own answer to the same out-of-fold scores, by its functions as documented.

cleanlab_find.py TASK SCORES.npz    # scores [N, C], targets bool [N, C] -> JSON

Prints the images in its order of quality, worst first; those that it calls issues, in that order;
and the seconds that it took.
"""

import json
import sys
import time

import numpy as np
from cleanlab import filter as single_filter
from cleanlab import multilabel_classification, rank


def main(task: str, file: str) -> None:
    kept = np.load(file)
    scores, targets = kept["scores"].astype(float), kept["targets"]
    began = time.perf_counter()
    if task == "single":
        labels = targets.argmax(1)
        scores = scores / scores.sum(1, keepdims=True)
        quality = rank.get_label_quality_scores(labels, scores)
        issues = single_filter.find_label_issues(
            labels, scores, return_indices_ranked_by="self_confidence", n_jobs=1
        )
    else:
        listed = [np.flatnonzero(row).tolist() for row in targets]
        quality = multilabel_classification.get_label_quality_scores(listed, scores)
        issues = multilabel_classification.filter.find_label_issues(
            listed, scores, return_indices_ranked_by="self_confidence", n_jobs=1
        )
    seconds = time.perf_counter() - began
    order = np.argsort(quality, kind="stable")
    print(json.dumps({"order": order.tolist(), "issues": issues.tolist(), "seconds": seconds}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
