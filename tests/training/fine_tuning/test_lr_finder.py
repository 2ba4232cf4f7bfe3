import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.errors import RunError
from testkit import image_sets
from testkit.noise_images import ALONE, network, training_images, weights_of
from training.fine_tuning import lr_finder
from training.fine_tuning.lr_finder import Curve, suggest, sweep
from training.fine_tuning.trainer import FineTuning

Floats = NDArray[np.float64]
Output = pytest.CaptureFixture[str]
ALL = 1e-7 * 1e8 ** (np.arange(100) / 99)

# What fastai 2.8 suggests (fastai/callback/schedule.py), written down from its definitions; it
# leaves out the first num_it // 10 steps and the last 5.


def minimum(lrs: Floats, losses: Floats) -> float:
    """A tenth of the learning rate at the lowest loss."""
    best = min(range(len(losses)), key=lambda i: losses[i])
    return float(lrs[best]) / 10


def steep(lrs: Floats, losses: Floats) -> float:
    """Where a step in the logarithm of the learning rate lowers the loss most."""
    falls = [
        (losses[i + 1] - losses[i]) / (math.log(lrs[i + 1]) - math.log(lrs[i]))
        for i in range(len(losses) - 1)
    ]
    return float(lrs[falls.index(min(falls))])


def valley(lrs: Floats, losses: Floats) -> float:
    """A third and half a third into the longest falling subsequence, which is taken to begin its
    length before its end."""
    best, length = 0, 0
    lengths: list[int] = []
    for i in range(len(losses)):
        lengths.append(1 + max([lengths[j] for j in range(i) if losses[j] > losses[i]], default=0))
        if lengths[i] > max(length, 1):
            best, length = i, lengths[i]
    sections = length / 3
    return float(lrs[(best - length) + int(sections) + int(sections / 2)])


def slide(lrs: Floats, losses: Floats) -> float:
    """Two indices 15 apart move down from the end until their slopes differ by at most 0.005; the
    lower index before the last move."""
    slopes, low = np.gradient(losses), -16
    found = lrs[low]
    while low >= -len(losses) and abs(slopes[low + 15] - slopes[low]) > 0.005:
        found = lrs[low]
        low -= 1
    return float(found)


REFERENCES: dict[str, Callable[[Floats, Floats], float]] = {
    "minimum/10": minimum,
    "steep": steep,
    "valley": valley,
    "slide": slide,
}


def typical(seed: int, steps: int = 100, noise: float = 0.02) -> Curve:
    """Flat, falling, then rising, with some noise; different for each seed."""
    random = np.random.default_rng(seed)
    lrs = ALL[:steps]
    at = np.log10(lrs)
    down, up = random.uniform(-5, -3), random.uniform(-1.5, 0)
    depth = random.uniform(0.5, 2)
    losses = 2.5 - depth / (1 + np.exp(-2 * (at - down))) + np.exp(2 * (at - up))
    return Curve(lrs, losses + random.normal(0, noise, steps))


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.2])
@pytest.mark.parametrize("name", REFERENCES)
def test_suggestions_are_fastai_s(name: str, noise: float) -> None:
    for seed in range(10):
        curve = typical(seed, 100 - 5 * seed, noise)
        expected = REFERENCES[name](curve.lrs[10:-5], curve.losses[10:-5])
        assert suggest(curve)[name] == pytest.approx(expected, rel=1e-9), seed


@pytest.mark.parametrize("losses", [np.linspace(3, 1, 100), np.linspace(1, 3, 100)])
def test_suggestions_are_fastai_s_if_a_curve_only_falls_or_rises(losses: Floats) -> None:
    curve = Curve(ALL, losses)
    found = suggest(curve)
    for name in ("minimum/10", "slide") if losses[0] < losses[1] else REFERENCES:
        if name != "steep":  # a line is equally steep everywhere, but for rounding
            assert found[name] == pytest.approx(REFERENCES[name](ALL[10:-5], losses[10:-5])), name


def test_steps_at_both_ends_are_left_out() -> None:
    curve = typical(0, noise=0)
    wild = curve.losses.copy()
    wild[:10], wild[-5:] = -100, -200
    assert suggest(Curve(curve.lrs, wild)) == suggest(curve)


@pytest.mark.parametrize("steps", [1, 15, 34])
def test_the_error_for_a_short_curve_says_when_it_diverged(steps: int) -> None:
    with pytest.raises(RunError, match=f"diverged after {steps} of 100 steps: too few for a curve"):
        suggest(typical(0, steps))
    assert len(suggest(typical(0, 35))) == 4


# The sweep.


def swept(phase: str, **changes: Any) -> tuple[Curve, set[str]]:
    """The curve, and the names of the weights that changed."""
    own = network()
    before = weights_of(own)
    tuning = FineTuning(own, training_images(), "single", image_sets.recipe(**changes), ALONE)
    curve = sweep(tuning, phase)
    after = weights_of(own)
    return curve, {name for name in before if not torch.equal(before[name], after[name])}


def test_a_sweep_rises_from_1e_7_until_the_loss_is_four_times_its_best() -> None:
    curve, changed = swept("head", batch_size=8)
    assert curve.lrs == pytest.approx(ALL[: len(curve.lrs)])
    assert 35 <= len(curve.losses) == len(curve.lrs) <= 100
    assert np.isfinite(curve.losses).all()
    assert curve.losses[0] == pytest.approx(curve.losses[1], rel=0.5)
    best = np.minimum.accumulate(curve.losses)
    assert (curve.losses[:-1] <= 4 * best[:-1]).all()
    assert len(curve.losses) == 100 or curve.losses[-1] > 4 * best[-1]
    assert curve.losses.min() < 0.8 * curve.losses[0]
    assert changed == {"fc.weight", "fc.bias"}


def test_a_sweep_that_diverges_stops_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The learning rate grows tenfold each step."""
    monkeypatch.setattr(lr_finder, "_LAST", 1e12)
    curve, changed = swept("head", batch_size=8)
    assert len(curve.losses) < 90
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lr_finder, "_DIVERGED", 1e30)
        assert len(swept("head", batch_size=8)[0].losses) > len(curve.losses)


def test_losses_are_smoothed_with_bias_correction() -> None:
    """The network does not change: the running mean lies within the range of its losses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lr_finder, "_LAST", 1e-6)
        curve, _ = swept("head", batch_size=24)
    assert len(curve.losses) == 100
    assert curve.losses.std() < 0.05 * curve.losses.mean()


def test_a_sweep_of_the_whole_network_changes_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lr_finder, "STEPS", 3)
    monkeypatch.setattr(lr_finder, "_FIRST", 1e-3)
    curve, changed = swept("whole", batch_size=24)
    assert len(curve.losses) <= 3
    assert changed == weights_of(network()).keys()


def test_the_same_seed_sweeps_the_same_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lr_finder, "STEPS", 6)
    first, again, other = (swept("head", batch_size=24, seed=seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(first.losses, again.losses)
    assert not np.array_equal(first.losses[:5], other.losses[:5])


def test_the_automatic_learning_rate_is_the_valley_of_the_head(
    capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    curve = typical(3)
    monkeypatch.setattr(
        lr_finder, "sweep", lambda tuning, phase: curve if phase == "head" else None
    )
    trial = FineTuning(network(), training_images(), "single", image_sets.recipe(lr="auto"), ALONE)
    lr = f"{valley(curve.lrs[10:-5], curve.losses[10:-5]):.1e}"
    assert lr_finder.with_found_lr(trial).lr == lr
    assert capsys.readouterr().out == f"--lr auto: {lr}\n"
