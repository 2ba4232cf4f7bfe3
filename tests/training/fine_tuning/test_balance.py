"""`--balance root`: rare labels are drawn more often."""

import numpy as np
import pytest
import torch
from torch import Tensor

from models.manifest import Task
from testkit import image_sets
from testkit.noise_images import training, training_images
from training.fine_tuning import balance, batches


def long_tail(task: Task) -> Tensor:
    """100, 25 and 4 images of a label; multi-label: 4 of both the first and the last, 9 of none."""
    single = torch.tensor([0] * 100 + [1] * 25 + [2] * 4)
    if task == "single":
        return single
    targets = torch.nn.functional.one_hot(single).float()
    targets[-4:, 0] = 1
    return torch.cat([targets, torch.zeros(9, 3)])


def test_an_image_counts_by_the_inverse_root_of_its_label_s_frequency() -> None:
    shares = balance.shares(long_tail("single"))
    assert float(shares.mean()) == pytest.approx(1)
    often, less, rare = (float(shares[row]) for row in (0, 100, 125))
    assert [less / often, rare / often] == pytest.approx([2, 5])


def test_an_image_with_several_labels_counts_by_the_rarest_and_without_any_by_that() -> None:
    shares = balance.shares(long_tail("multi"))
    often, less, both, none = (float(shares[row]) for row in (0, 100, 125, 129))
    root = np.sqrt(104)
    assert less / often == pytest.approx(root / 5)
    assert both / often == pytest.approx(root / 2)
    assert none / often == pytest.approx(root / 3)


def test_an_image_is_drawn_its_share_rounded_up_or_down(task: Task) -> None:
    shares = balance.shares(long_tail(task))
    total = torch.zeros(len(shares))
    for seed in range(200):
        rows = balance.draw(shares, torch.Generator().manual_seed(seed))
        counts = rows.bincount(minlength=len(shares))
        assert len(rows) == len(shares)
        assert bool(((counts == shares.floor()) | (counts == shares.ceil())).all())
        total += counts
    # each mean of 200 draws, of which one differs by less than 1, is within 5 standard deviations
    assert float((total / 200 - shares).abs().max()) < 5 * 0.5 / np.sqrt(200)


def test_the_rows_are_in_random_order() -> None:
    rows = balance.draw(torch.ones(50, dtype=torch.float64), torch.Generator().manual_seed(0))
    assert torch.equal(rows.sort().values, torch.arange(50)) and not torch.equal(
        rows, torch.arange(50)
    )


def test_the_option_balances_the_epochs_of_a_run(task: Task) -> None:
    targets = long_tail(task)
    given = training(torch.zeros(len(targets), 32, 32, 3, dtype=torch.uint8), targets)
    seen = {}
    for choice in ("none", "root"):
        recipe = image_sets.recipe(balance=choice, batch_size=16)
        steps = batches.order(given, recipe, 0)
        rows = torch.cat(steps)
        assert len(rows) == len(targets) and len(steps) == recipe.steps(len(targets))
        again = torch.cat(batches.order(given, recipe, 0))
        later = torch.cat(batches.order(given, recipe, 1))
        assert torch.equal(rows, again) and not torch.equal(rows, later)
        is_rare = targets == 2 if task == "single" else targets[:, 2] > 0
        seen[choice] = int(is_rare[rows].sum())
    assert seen["none"] == 4 < seen["root"]


def test_labels_that_are_equally_frequent_stay_so() -> None:
    given = training_images()
    recipe = image_sets.recipe(balance="root")
    rows = torch.cat(batches.order(given, recipe, 0))
    assert torch.equal(rows.sort().values, torch.arange(len(given.targets)))
