from collections.abc import Iterator
from pathlib import Path

import pytest

from models.store import Store
from serving.scoring import Image, Scorer
from serving.settings import Settings
from testkit import novel_models, tiny_models


@pytest.fixture
def scorer(store: Path) -> Scorer:
    return Scorer(Store(store).read("colours"), Settings(device="cpu", max_batch=2))


def test_an_image_that_cannot_be_read_is_a_row_with_an_error(scorer: Scorer) -> None:
    def missing() -> bytes:
        raise FileNotFoundError(2, "No such file or directory")

    def broken() -> bytes:
        raise OSError("no answer")  # as of object storage: without a number

    images: list[Image] = [("a", missing), ("b", tiny_models.picture), ("c", broken)]
    first, second, third = (row for rows in scorer.rows(images) for row in rows)
    assert first.error == "internal: cannot be read: No such file or directory"
    assert (second.path, second.predicted, second.error) == ("b", "red", None)
    assert third.error == "internal: cannot be read: no answer"
    assert first.scores is None and third.predicted is None


def test_no_more_than_three_batches_are_read_at_once(scorer: Scorer) -> None:
    """A row group of Parquet may have more images than fit into memory."""
    taken = 0

    def images() -> Iterator[Image]:
        nonlocal taken
        for number in range(40):
            taken += 1
            yield str(number), tiny_models.picture

    done = 0
    for rows in scorer.rows(images()):
        assert taken - done <= 3 * scorer.session.max_batch
        done += len(rows)
    assert done == taken == 40


@pytest.mark.parametrize("what", ["scores", "novelty"])
def test_what_is_not_finite_is_an_error_as_in_the_service(tmp_path: Path, what: str) -> None:
    if what == "scores":
        network = tiny_models.network("single", nan_for_black=True)
        tiny_models.add(tmp_path, "fragile", "single", network)
    else:
        novel_models.add(tmp_path, "fragile", "single", nan_for_black=True)
    scorer = Scorer(Store(tmp_path).read("fragile"), Settings(device="cpu"))
    black = tiny_models.picture((0, 0, 0))
    images: list[Image] = [("a", lambda: black), ("b", tiny_models.picture)]
    (first, second) = next(scorer.rows(images))
    assert first.error is not None and first.error.startswith("model_failed: ")
    assert first.predicted is None and first.scores is None
    assert second.predicted == "red" and second.error is None
