"""Duplicates and near-duplicates: groups of images that a split must keep together."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from training.data.record import Record

# Bits of 63 in which two perceptual hashes of near-duplicates may differ; they differ in an even
# number, since each has 31 bits set. Measured on 360 images of pets, Caltech-101 and VOC 2007:
#   distance                       4     6     8    10
#   found: half the size         97 %   99 %  100 %  100 %
#   found: JPEG quality 60      100 %  100 %  100 %  100 %
#   found: brightness +-10 %     99 %  100 %  100 %  100 %
#   found: 2 % off each side     67 %   89 %   98 %  100 %
#   found: 5 % off one side      26 %   55 %   75 %   91 %
# Among all pairs of VOC 2007, 6 finds four, all of them true on inspection, and 8 finds eleven,
# most of them false; among pets, none. Caltech-101 has 322 at 6: one group is 70 motorcycles in one
# pose.
DISTANCE = 6
_CELLS = 2**19  # pairs compared at a time: 4 MiB of hashes


def group(records: Sequence[Record]) -> list[Record]:
    """The records with their groups: the same bytes, or a chain of near-duplicates.

    An unreadable file is a group of its own. 100,000 images take 25 seconds on one core.
    """
    keys = [record.sha256 or f"unread {row}" for row, record in enumerate(records)]
    content = np.unique(keys, return_inverse=True)[1]
    rows = [row for row, record in enumerate(records) if record.scan.perceptual is not None]
    near = near_groups(np.array([records[row].scan.perceptual for row in rows], np.uint64))
    images = len(records)  # nodes: images, then contents, then groups of near-duplicates
    links = np.stack(
        [
            np.concatenate([np.arange(images), np.array(rows, np.int64)]),
            np.concatenate([content, near + images]) + images,
        ]
    )
    groups = _components(links, 3 * images)[:images].tolist()
    return [replace(record, group=number) for record, number in zip(records, groups, strict=True)]


def near_groups(hashes: NDArray[np.uint64], distance: int = DISTANCE) -> NDArray[np.int64]:
    """Connected components of `[N]` hashes that differ in at most `distance` bits: `[N]`.

    Every pair is compared, a block at a time; memory grows with N, not with the pairs.
    """
    unique, back = np.unique(hashes, return_inverse=True)
    count = len(unique)
    links = np.empty((2, 0), np.int64)
    step = max(1, _CELLS // max(count, 1))
    for start in range(0, count, step):
        differing = np.bitwise_count(unique[start : start + step, None] ^ unique[None, start:])
        row, column = np.nonzero(differing <= distance)
        found = np.stack([row, column])[:, column > row] + start
        links = np.concatenate([links, found], 1)
        if links.shape[1] > 4 * count + _CELLS:
            links = _forest(_components(links, count))
    return _components(links, count)[back]


def _components(links: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The component of each of `count` nodes; links: `[2, E]`."""
    from scipy.sparse import coo_array  # late: reading a split would import it, too
    from scipy.sparse.csgraph import connected_components

    matrix = coo_array((np.ones(links.shape[1], np.bool_), tuple(links)), shape=(count, count))
    return connected_components(matrix, directed=False)[1].astype(np.int64)  # type: ignore[no-any-return]


def _forest(group: NDArray[np.int64]) -> NDArray[np.int64]:
    """The fewest links with the same components: from each node to the first of its component."""
    first = np.unique(group, return_index=True)[1]
    return np.stack([np.arange(len(group)), first[group]])
