"""Where the network looked: the evidence for a label at each position of the image.

What the report, the API and the page show is defined here: what is compared with what.
"""

import numpy as np
from numpy.typing import NDArray

from models.decision import rank


def rival(scores: NDArray[np.float32], label: int) -> int:
    """What a single-label model's label competes with: the likeliest other one. scores: `[C]`.

    Only differences between a softmax's logits have a meaning. So the likeliest label is compared
    with the second, and every other label with the likeliest.
    """
    first, second = rank(scores)[:2].tolist()
    return int(second if label == first else first)


def evidence(
    maps: NDArray[np.float32], label: int | None, against: int | None
) -> NDArray[np.float32]:
    """Where the evidence for a label lies: `[h, w]`, above 0 where strong, below 0 where weak.

    maps: logits `[C, h, w]`. The evidence is the difference between the two labels' logits, or the
    one label's own logit (negated if it is the one `against`), minus its mean over the positions,
    as in a clear case every position is for the label.
    """
    zeros = np.zeros_like(maps[0])
    found = zeros if label is None else maps[label]
    found = found - (zeros if against is None else maps[against])
    return np.asarray(found - found.mean())
