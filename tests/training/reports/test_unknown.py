from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from models.conformal import HeldOut
from models.outputs import Outputs
from training.data.record import Record
from training.evaluation import promises
from training.evaluation.evaluate import Evaluation
from training.reports import unknown


def black(rows: Sequence[int]) -> NDArray[np.uint8]:
    return np.zeros((len(rows), 8, 8, 3), np.uint8)


@pytest.mark.parametrize("images", [20, 150])
def test_whether_nothing_can_be_unknown_follows_from_the_held_out_images(images: int) -> None:
    """Not from the images judged, none of which need be as strange as may be."""
    scores, targets = np.full((2, 1), 0.9, np.float32), np.ones((2, 1), np.bool_)
    held_out = HeldOut(np.arange(images, dtype=np.float32), None)
    judged = promises.judge(Outputs(scores, np.zeros(2, np.float32)), held_out)
    assert judged is not None and judged.p_values.tolist() == [1, 1]
    records = [Record(f"{n}.jpg", ("cat",), "valid") for n in range(2)]
    evaluation = Evaluation(
        "multi", ("cat",), records, black, targets, scores, scores, targets, judged
    )
    section = unknown.section(evaluation, None)
    assert section is not None
    assert section["least_alpha"] == 1 / (images + 1)
    assert (section["least_alpha"] > section["rows"][0]["alpha"]) == (images == 20)
