from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from training.data import near_duplicates
from training.data.record import Record, Scan

DISTANCE = near_duplicates.DISTANCE


def brute_force(hashes: NDArray[np.uint64], distance: int) -> list[set[int]]:
    """By union of every pair."""
    groups = [{number} for number in range(len(hashes))]
    for first in range(len(hashes)):
        for second in range(first):
            near = (int(hashes[first]) ^ int(hashes[second])).bit_count() <= distance
            if near and groups[first] is not groups[second]:
                groups[first] |= groups[second]
                for member in groups[second]:
                    groups[member] = groups[first]
    return groups


def same(found: NDArray[np.int64], expected: list[set[int]]) -> bool:
    return all(
        {other for other, g in enumerate(found) if g == group} == members
        for group, members in zip(found, expected, strict=True)
    )


def tangled(seed: int, count: int) -> NDArray[np.uint64]:
    """Hashes of which many are near others, in chains."""
    random = np.random.default_rng(seed)
    hashes = random.integers(0, 2**63, count, dtype=np.uint64)
    for number in range(count // 3, count):
        flipped = {int(bit) for bit in random.integers(0, 63, int(random.integers(0, 9)))}
        start = int(hashes[random.integers(number)])
        hashes[number] = start ^ sum(1 << bit for bit in flipped)
    return hashes


@pytest.mark.parametrize("cells", [1, 700, 2**19])
@pytest.mark.parametrize("distance", [0, 2, 6, 64])
def test_groups_are_the_connected_components_whatever_the_block_size(
    cells: int, distance: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_duplicates, "_CELLS", cells)
    hashes = tangled(1, 150)
    found = near_duplicates.near_groups(hashes, distance)
    assert same(found, brute_force(hashes, distance))
    if distance == 6:
        assert 10 < len(set(found.tolist())) < 120


def test_too_many_links_are_reduced_without_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A dense cluster: every hash is near every other."""
    monkeypatch.setattr(near_duplicates, "_CELLS", 64)
    reduced = []
    forest = near_duplicates._forest

    def counted(group: NDArray[np.int64]) -> NDArray[np.int64]:
        reduced.append(len(group))
        return forest(group)

    monkeypatch.setattr(near_duplicates, "_forest", counted)
    hashes = np.concatenate([np.arange(64), 2**62 + 2**55 + np.arange(64) + 2**40 * 127])
    found = near_duplicates.near_groups(hashes.astype(np.uint64))
    assert same(found, brute_force(hashes.astype(np.uint64), DISTANCE))
    assert len(set(found.tolist())) == 2 and reduced


def test_no_hashes_give_no_groups() -> None:
    assert near_duplicates.near_groups(np.array([], np.uint64)).tolist() == []
    assert near_duplicates.group([]) == []


def entry(content: str, perceptual: int | None) -> Record:
    return Record("x.jpg", ("cat",), sha256=content, scan=Scan(perceptual=perceptual))


def groups(records: list[Record]) -> list[int]:
    return [record.group for record in near_duplicates.group(records)]


def test_only_the_group_of_a_record_is_new() -> None:
    records = [entry("a", 0), entry("b", None), entry("a", 0)]
    grouped = near_duplicates.group(records)
    assert [replace(record, group=-1) for record in grouped] == records


def test_the_same_bytes_and_near_duplicates_are_one_group() -> None:
    far = 2**40 - 1
    records = [
        entry("a", 0),
        entry("b", 0b111111),  # near a
        entry("c", far),
        entry("d", None),  # too plain
        entry("d", None),
        entry("e", None),
        entry("", None),  # cannot be read
        entry("", None),
        entry("a", 0),
        entry("f", far ^ 0b11),
    ]
    first, second, third, plain, twin, lone, unread, other, copy, last = groups(records)
    assert first == second == copy
    assert third == last
    assert plain == twin
    assert len({first, third, plain, lone, unread, other}) == 6


def test_plain_images_are_grouped_by_their_bytes_only() -> None:
    first, other, again = groups([entry("a", None), entry("b", None), entry("a", None)])
    assert first == again != other


def test_one_bit_too_many_is_not_a_near_duplicate() -> None:
    apart = [entry("a", 0), entry("b", 2 ** (DISTANCE + 1) - 1)]
    assert len(set(groups(apart))) == 2
    between = [*apart, entry("c", 1)]  # a chain through the third
    assert len(set(groups(between))) == 1
