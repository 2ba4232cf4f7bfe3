import math

import pytest
import torch
from torch import nn

from training.fine_tuning.loss import loss_of, precision
from training.recipe import Dtype

CPU = torch.device("cpu")


def test_cross_entropy_is_the_mean_of_minus_the_log_of_the_softmax() -> None:
    logits, targets = (
        torch.randn(6, 4, generator=torch.Generator().manual_seed(0)),
        [0, 1, 2, 3, 3, 0],
    )
    expected = -sum(math.log(row.softmax(0)[t]) for row, t in zip(logits, targets, strict=True)) / 6
    assert loss_of(logits, torch.tensor(targets), "single").item() == pytest.approx(
        expected, rel=1e-5
    )


def test_softmax_log_and_nll_loss_are_log_softmax_and_nll_loss_are_cross_entropy() -> None:
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 2, 3, 3, 0])
    loss = loss_of(logits, targets, "single")
    torch.testing.assert_close(loss, nn.functional.nll_loss(logits.softmax(1).log(), targets))
    torch.testing.assert_close(loss, nn.functional.nll_loss(logits.log_softmax(1), targets))


def test_the_softmax_of_a_pair_is_the_sigmoid_of_the_difference() -> None:
    """So two labels have the same loss as one that is present or not."""
    logits = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 1, 0, 1, 0])
    difference = logits[:, 1:] - logits[:, :1]
    torch.testing.assert_close(logits.softmax(1)[:, 1:], difference.sigmoid())
    torch.testing.assert_close(
        loss_of(logits, targets, "single"), loss_of(difference, targets[:, None].float(), "multi")
    )


def test_the_gradient_of_cross_entropy_is_softmax_minus_target() -> None:
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    targets = torch.tensor([0, 1, 2, 3, 3, 0])
    (gradient,) = torch.autograd.grad(loss_of(logits, targets, "single"), logits)
    expected = (logits.softmax(1) - nn.functional.one_hot(targets, 4)) / 6
    torch.testing.assert_close(gradient, expected)


def test_binary_cross_entropy_is_sigmoid_where_log_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, targets = (
        torch.randn(6, 4, generator=generator),
        torch.rand(6, 4, generator=generator) < 0.5,
    )
    scores = logits.sigmoid()
    expected = -torch.where(targets, scores, 1 - scores).log().mean()
    torch.testing.assert_close(loss_of(logits, targets.float(), "multi"), expected)


def test_the_recipe_decides_the_precision() -> None:
    choices: list[tuple[Dtype, torch.dtype]] = [
        ("bfloat16", torch.bfloat16),
        ("float32", torch.float32),
    ]
    for dtype, expected in choices:
        with precision(CPU, dtype):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == expected
