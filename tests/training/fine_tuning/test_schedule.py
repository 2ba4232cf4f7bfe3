import pytest
import torch
from torch import nn

from testkit import image_sets
from training.fine_tuning import schedule
from training.fine_tuning.schedule import phases
from training.network.resnet import Network

STEPS = 200


def theirs(peak: float, steps: int = STEPS) -> list[tuple[float, float]]:
    """Learning rate and momentum at the start of each step, and at the end of the last one."""
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))])
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, peak, steps + 1, pct_start=0.3, div_factor=5, final_div_factor=1e4
    )
    found = []
    for _ in range(steps + 1):
        group = optimizer.param_groups[0]
        found.append((group["lr"], group["betas"][0]))
        optimizer.step()
        if len(found) <= steps:
            schedule.step()
    return found


def test_the_cycle_is_torch_s_within_a_step() -> None:
    """OneCycleLR evaluates at a step's start, and its peak is 0.7 steps before 30 %."""
    reference = torch.tensor(theirs(1e-2))
    middles = (reference[1:] + reference[:-1]) / 2
    ours = torch.tensor([schedule.cycle((step + 0.5) / STEPS) for step in range(STEPS)])
    ours[:, 0] *= 1e-2
    a_step = reference.diff(dim=0).abs().amax(0)
    assert ((ours - middles).abs() < a_step).all()
    assert ours[:, 0].argmax() == ours[:, 1].argmin() == pytest.approx(0.3 * STEPS, abs=1)


def test_the_ends_and_the_top_are_exact() -> None:
    assert schedule.cycle(0) == pytest.approx((1 / 5, 0.95))
    assert schedule.cycle(0.3) == pytest.approx((1, 0.85))
    assert schedule.cycle(1) == pytest.approx((1 / 5e4, 0.95))


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_every_step_of_a_short_phase_has_a_learning_rate(steps: int) -> None:
    """OneCycleLR divides by zero in a phase of one step."""
    recipe = image_sets.recipe(epochs=steps, freeze_epochs=0)
    (phase,) = phases(recipe, 1, 6)
    shares = [schedule.cycle(phase.progress(step))[0] for step in range(steps)]
    assert max(shares) > 0.5
    assert min(shares) > 0.1


def test_learning_rates_are_a_geometric_progression() -> None:
    assert schedule.peaks(1e-6, 1e-1, 6) == pytest.approx([1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1])
    assert schedule.peaks(2e-3, 2e-3, 6) == pytest.approx([2e-3] * 6)


def test_phases_cover_every_step_once() -> None:
    head, whole = phases(image_sets.recipe(freeze_epochs=2, epochs=3, lr="1e-2"), 7, 6)
    assert (head.name, whole.name) == ("head", "whole")
    assert (head.first, head.last, whole.first, whole.last) == (0, 14, 14, 35)
    assert head.peaks == [0, 0, 0, 0, 0, 1e-2]
    assert (whole.peaks[0], whole.peaks[-1]) == pytest.approx((5e-5, 5e-3))
    assert [head.progress(step) for step in (0, 13)] == pytest.approx([0.5 / 14, 13.5 / 14])


def test_the_curve_is_the_learning_rate_of_the_head_and_the_loss_of_each_finished_step() -> None:
    recipe, losses = image_sets.recipe(freeze_epochs=1, epochs=2), [0.5, 0.25, 4.0, 3.0, 2.0, 1.0]
    curve = schedule.curve(recipe, 2, 6, losses)
    assert [loss for _, loss in curve] == losses
    shares = [schedule.cycle(p)[0] for p in (1 / 4, 3 / 4, 1 / 8, 3 / 8, 5 / 8, 7 / 8)]
    peaks = [1e-2] * 2 + [5e-3] * 4
    expected = [peak * share for peak, share in zip(peaks, shares, strict=True)]
    assert [lr for lr, _ in curve] == pytest.approx(expected)
    for done in range(6):
        assert schedule.curve(recipe, 2, 6, losses[:done]) == curve[:done]


def test_each_block_s_weights_decay_and_its_norms_and_biases_do_not() -> None:
    network = Network("resnet18", 3)
    peaks = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    groups = schedule.optimizer(network.blocks, peaks, 0.125).param_groups
    found = {id(p): (g["peak"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert len(found) == sum(len(g["params"]) for g in groups) == len(list(network.parameters()))
    for block, peak in zip(network.blocks, peaks, strict=True):
        for parameter in block.parameters():
            decay = 0.125 if parameter.ndim > 1 else 0.0
            assert found[id(parameter)] == (peak, decay)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {found[id(p)][1] for norm in norms for p in norm.parameters()} == {0.0}
    assert found[id(network.resnet.fc.bias)] == (6.0, 0.0)


def test_each_block_has_a_learning_rate_and_all_are_updated_in_one_kernel() -> None:
    network = Network("resnet18", 3)
    assert schedule.optimizer(network.blocks, [1.0] * 6, 0.1).defaults["fused"] is True
    for count in (5, 7):
        with pytest.raises(ValueError, match="argument 2 is (shorter|longer)"):
            schedule.optimizer(network.blocks, [1.0] * count, 0.1)


def test_frozen_parameters_have_no_group() -> None:
    network = Network("resnet18", 3).requires_grad_(False)
    network.resnet.fc.requires_grad_(True)
    groups = schedule.optimizer(network.blocks, [0.0] * 5 + [1.0], 0.1).param_groups
    learning = {id(parameter) for group in groups for parameter in group["params"]}
    assert learning == {id(parameter) for parameter in network.resnet.fc.parameters()}
    assert [len(group["params"]) for group in groups] == [1, 1]


def test_applying_the_schedule_sets_each_group_s_learning_rate_and_first_beta() -> None:
    network = Network("resnet18", 3)
    optimizer = schedule.optimizer(network.blocks, schedule.peaks(1e-4, 1e-2, 6), 0.1)
    second = optimizer.param_groups[0]["betas"][1]
    for progress in (0.1, 0.3, 0.7):
        schedule.apply(optimizer, progress)
        share, momentum = schedule.cycle(progress)
        for group in optimizer.param_groups:
            assert group["lr"] == group["peak"] * share
            assert group["betas"] == (momentum, second)
