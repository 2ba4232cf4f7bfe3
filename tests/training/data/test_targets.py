import pytest
import torch

from models.errors import DataError
from training.data.record import Record
from training.data.targets import encode, loss_targets


def records(*labels: tuple[str, ...]) -> list[Record]:
    return [Record(f"{number}.jpg", names) for number, names in enumerate(labels)]


def test_targets_mark_each_image_s_labels() -> None:
    found = encode(records(("a", "b"), (), ("c",)), ("a", "b", "c"))
    assert found.tolist() == [[True, True, False], [False] * 3, [False, False, True]]


def test_a_label_that_the_model_lacks_is_refused_with_the_valid_ones() -> None:
    with pytest.raises(DataError, match="^the model has no label 'd'; valid: a, b$"):
        encode(records(("a",), ("d",)), ("a", "b"))


def test_images_without_any_label_are_refused() -> None:
    with pytest.raises(
        DataError, match="^2 images without a single label: nothing to train on or to evaluate$"
    ):
        encode(records((), ()), ("a", "b"))


def test_the_loss_takes_indices_for_one_label_and_zeros_and_ones_for_several() -> None:
    targets = encode(records(("b",), ("a",)), ("a", "b"))
    single, multi = loss_targets(targets, "single"), loss_targets(targets, "multi")
    assert single.tolist() == [1, 0]
    assert multi.dtype == torch.float32 and multi.tolist() == [[0, 1], [1, 0]]
