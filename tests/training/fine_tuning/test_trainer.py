import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.errors import RunError
from models.manifest import Task
from testkit import image_sets
from testkit.noise_images import (
    ALONE,
    CPU,
    STILL,
    images_of,
    network,
    the_same,
    training,
    training_images,
    validation_of,
    weights_of,
)
from training.data.augment import augment, draw
from training.distributed import Ranks
from training.fine_tuning import batches, checkpoint
from training.fine_tuning import trainer as module
from training.fine_tuning.checkpoint import Checkpoint, Progress
from training.fine_tuning.loss import loss_of
from training.fine_tuning.schedule import Phase
from training.fine_tuning.trainer import DivergedError, FineTuning
from training.fine_tuning.validation import Validation
from training.network.resnet import Network
from training.run_folder import Epoch


def trained(
    own: Network,
    task: Task = "single",
    epochs_done: list[Epoch] | None = None,
    count: int = 24,
    validation: Validation | None = None,
    **changes: Any,
) -> dict[str, Tensor]:
    """Train in place; returns the weights. Extends `epochs_done`."""
    tuning = FineTuning(
        own, training_images(task, count), task, image_sets.recipe(**changes), ALONE
    )
    done = Progress(epochs=[] if epochs_done is None else epochs_done)
    tuning.run(done, validation=validation)
    return weights_of(own)


# The loop.


@pytest.mark.parametrize("task", ["single", "multi"])
def test_a_few_epochs_lower_the_loss(task: Task) -> None:
    """On the same images without augmentation, in evaluation mode."""
    own, given = network(), training_images(task)

    def loss() -> float:
        own.eval()
        with torch.inference_mode():
            logits = own(images_of(given))
        return loss_of(logits, given.targets, task).item()

    before, epochs = loss(), list[Epoch]()
    trained(own, task, epochs, epochs=8)
    assert loss() < 0.7 * before
    assert epochs[-1].train_loss < 0.8 * epochs[0].train_loss


def test_epochs_are_told_in_order_with_their_phase() -> None:
    epochs: list[Epoch] = []
    trained(network(), epochs_done=epochs, freeze_epochs=2, epochs=1)
    assert [(e.phase, e.epoch) for e in epochs] == [("head", 1), ("head", 2), ("whole", 3)]
    assert all(e.images_per_s > 0 for e in epochs)


@pytest.mark.parametrize(("freeze_epochs", "epochs", "phase"), [(0, 1, "whole"), (1, 0, "head")])
def test_a_phase_without_epochs_is_left_out(freeze_epochs: int, epochs: int, phase: str) -> None:
    recorded: list[Epoch] = []
    trained(network(), epochs_done=recorded, freeze_epochs=freeze_epochs, epochs=epochs)
    assert [(e.phase, e.epoch) for e in recorded] == [(phase, 1)]


def test_the_train_loss_is_the_mean_over_images_however_they_are_batched() -> None:
    """At a learning rate of almost 0 neither the network nor the loss of an image changes."""
    losses = []
    for batch_size in (2, 7, 24):
        epochs: list[Epoch] = []
        options: dict[str, Any] = {"lr": "1e-12", "epochs": 0, "batch_size": batch_size}
        trained(network(), "single", epochs, 25, **STILL, **options)
        losses.append(epochs[0].train_loss)
    own, given = network().eval(), training_images(count=25)
    with torch.inference_mode():
        logits = own(images_of(given)).float()
    expected = loss_of(logits, given.targets, "single").item()
    assert losses == pytest.approx([expected] * 3, rel=0.01)


def test_the_frozen_phase_changes_the_head_and_nothing_else() -> None:
    own = network()
    before = weights_of(own)
    after = trained(own, epochs=0, freeze_epochs=2)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"fc.weight", "fc.bias"}


def test_the_frozen_phase_stays_frozen_whatever_comes_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = network()
    before = weights_of(own)
    monkeypatch.setattr(Validation, "after_epoch", lambda *_: own.train())
    between = validation_of(own, tmp_path)
    after = trained(own, validation=between, epochs=0, freeze_epochs=2)
    assert torch.equal(before["bn1.running_mean"], after["bn1.running_mean"])


def test_the_whole_phase_changes_every_weight_and_statistic(tmp_path: Path) -> None:
    """Validation between epochs is in evaluation mode."""
    own = network()
    before = weights_of(own)
    between = validation_of(own, tmp_path)
    after = trained(own, validation=between, freeze_epochs=1, epochs=2)
    assert not own.training
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    assert int(after["bn1.num_batches_tracked"]) == 4


def test_the_same_seed_gives_bit_identical_weights() -> None:
    first, again, other = (trained(network(), epochs=1, seed=seed) for seed in (1, 1, 2))
    assert the_same(first, again)
    assert not the_same(first, other)


def test_training_does_not_draw_from_the_global_generator() -> None:
    own = network()
    first = trained(own, epochs=0)
    again = network()
    torch.manual_seed(99)
    assert the_same(first, trained(again, epochs=0))


def test_a_diverging_learning_rate_stops_with_the_step_the_option_and_the_images() -> None:
    own, given = network(), training_images()
    recipe = image_sets.recipe(lr="1e10", epochs=6)
    done = Progress()
    tuning = FineTuning(own, given, "single", recipe, ALONE)
    expected = r"the loss of step \d+ is (nan|inf): .*; use a lower --lr than 1e10"
    with pytest.raises(DivergedError, match=expected) as caught:
        tuning.run(done)
    losses = done.losses  # of the steps before it, all finite
    assert all(map(math.isfinite, losses))
    step = len(losses)
    assert f"the loss of step {step + 1} is " in str(caught.value)
    rows = batches.order(given, recipe, step // 2)[step % 2]
    assert caught.value.files == [f"{row}.jpg" for row in rows.tolist()]


def test_images_that_are_nan_stop_training_in_the_first_step() -> None:
    own = network()
    nn.init.constant_(own.resnet.fc.weight, math.nan)
    with pytest.raises(RunError, match="the loss of step 1 is nan"):
        trained(own)


def test_the_number_of_steps_follows_from_the_batch_size() -> None:
    own = network()
    after = trained(own, count=25, freeze_epochs=0, epochs=2, batch_size=8)
    assert int(after["bn1.num_batches_tracked"]) == 2 * 4


def test_fixed_norms_keep_their_statistics_while_their_weights_are_trained() -> None:
    own = network()
    before = weights_of(own)
    after = trained(own, norms="fixed", freeze_epochs=0, epochs=1)
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if "running_" in name or "num_batches" in name}


@pytest.mark.parametrize(("every_s", "saved"), [(0, [1, 2, 3, 4, 6, 8]), (999, [4, 8])])
def test_progress_is_saved_after_each_epoch_and_as_often_as_the_recipe_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every_s: float, saved: list[int]
) -> None:
    """An epoch has four steps; the loss is read after each, then after every second."""
    monkeypatch.setattr(module, "_LOSS_STEPS", 1)
    steps: list[int] = []
    write = checkpoint.write

    def watched(path: Path, progress: Progress, *others: Any) -> None:
        steps.append(progress.step)
        monkeypatch.setattr(module, "_LOSS_STEPS", 2 if progress.step >= 4 else 1)
        write(path, progress, *others)

    monkeypatch.setattr(checkpoint, "write", watched)
    recipe = image_sets.recipe(batch_size=6, checkpoint_s=every_s, freeze_epochs=2, epochs=0)
    tuning = FineTuning(network(), training_images(), "single", recipe, ALONE)
    tuning.run(Progress(), path=tmp_path)
    assert steps == saved


def test_what_is_saved_is_the_progress_with_network_and_optimizer(tmp_path: Path) -> None:
    own, done = network(), Progress()
    recipe = image_sets.recipe(freeze_epochs=0, epochs=1)
    FineTuning(own, training_images(), "single", recipe, ALONE).run(done, path=tmp_path)
    found = checkpoint.read(tmp_path)
    assert found and found.progress == done and len(done.losses) == 2 and len(done.epochs) == 1
    assert {f"exp_avg.{n}" for n, _ in own.resnet.named_parameters()} <= set(found.tensors)
    for name, value in own.resnet.state_dict().items():
        assert torch.equal(found.tensors[f"network.{name}"], value)


def test_only_the_first_process_saves(tmp_path: Path) -> None:
    own = network()
    optimizer = torch.optim.AdamW(own.resnet.parameters())
    for rank in (1, 0):
        ranks = Ranks(rank, 2, CPU)
        tuning = FineTuning(own, training_images(), "single", image_sets.recipe(), ranks)
        tuning._save(tmp_path, Progress(), optimizer)
        assert (checkpoint.read(tmp_path) is not None) == (rank == 0)


@pytest.fixture
def timed_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes 1.17 s, by a clock that begins at 100 s."""
    now_s = 100.0

    def lasting(*_: Any) -> Tensor:
        nonlocal now_s
        now_s += 1.17
        return torch.tensor(0.123456789)

    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now_s))
    monkeypatch.setattr(FineTuning, "step", lasting)


def test_an_epoch_s_speed_and_time_are_those_of_its_steps(timed_steps: None) -> None:
    """24 images in two steps; 10 s passed before training began."""
    recipe, done = image_sets.recipe(freeze_epochs=1, epochs=1), Progress()
    FineTuning(network(), training_images(), "single", recipe, ALONE, _began=90.0).run(done)
    assert done.epochs == [
        Epoch(phase="head", epoch=1, train_loss=0.12346, images_per_s=10.3, seconds=12.3),
        Epoch(phase="whole", epoch=2, train_loss=0.12346, images_per_s=10.3, seconds=14.7),
    ]


def test_the_time_of_a_resumed_run_goes_on(timed_steps: None) -> None:
    """The first epoch took 50 s."""
    own, recipe = network(), image_sets.recipe(freeze_epochs=1, epochs=1)
    epoch = Epoch(phase="head", epoch=1, train_loss=1.0, images_per_s=10.3, seconds=50.0)
    done = Progress([1.0, 1.0], [epoch])
    state = own.resnet.state_dict().items()
    start = Checkpoint(done, {f"network.{name}": value.clone() for name, value in state})
    FineTuning(own, training_images(), "single", recipe, ALONE, _began=90.0).run(done, start)
    assert [epoch.seconds for epoch in done.epochs] == [50.0, 62.3]


def test_what_limits_the_speed_is_printed_once_per_phase(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = network()
    between = validation_of(own, tmp_path)
    trained(own, validation=between, freeze_epochs=2, epochs=2, batch_size=8)
    printed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert printed == ["the", "phase", "phase", "the", "phase", "phase"]


@pytest.mark.parametrize(
    ("enough", "phases"),
    [(0, []), (1, ["head"]), (2, ["head"] * 2), (3, ["head"] * 2 + ["whole"])],
)
def test_early_stopping_ends_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enough: int, phases: list[str]
) -> None:
    """Within a phase and before one, which is not even prepared."""
    own, done, prepared = network(), list[Epoch](), list[str]()
    prepare = FineTuning.prepare

    def watched(self: FineTuning, phase: Phase) -> torch.optim.AdamW:
        prepared.append(phase.name)
        return prepare(self, phase)

    monkeypatch.setattr(FineTuning, "prepare", watched)
    monkeypatch.setattr(Validation, "should_stop", lambda _, made: len(made.epochs) == enough)
    between = validation_of(own, tmp_path)
    trained(own, "single", done, validation=between, freeze_epochs=2, epochs=2)
    assert [epoch.phase for epoch in done] == phases
    assert prepared == sorted(set(phases))


def test_every_step_of_every_epoch_has_its_own_random_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same image each time: only its views differ. Two phases of two epochs."""
    seen: list[Tensor] = []
    step = FineTuning.step

    def watched(self: FineTuning, learner: Any, optimizer: Any, batch: batches.Batch) -> Tensor:
        seen.append(batch[0].clone())
        return step(self, learner, optimizer, batch)

    monkeypatch.setattr(FineTuning, "step", watched)
    ((pixels, _),) = training_images().source.batches([torch.tensor([0])])
    image = pixels.expand(16, -1, -1, -1)
    given = training(image, torch.arange(16) % 3)
    recipe = image_sets.recipe(batch_size=8, freeze_epochs=2, epochs=2)
    FineTuning(network(), given, "single", recipe, ALONE).run(Progress())
    assert len(seen) == 8
    for number, images in enumerate(seen):
        generator = batches.generator(recipe.seed, "views", number)
        views = augment(image[:8], torch.ones(8, 2), draw(8, generator), recipe)
        torch.testing.assert_close(images, views)
        assert not any(torch.equal(images, other) for other in seen[:number])


# The optimizer.


class Recorded(torch.optim.AdamW):
    """Records (learning rate, decay) of every step by the id of the weight, and does not step."""

    made: "list[Recorded]" = []

    def __init__(self, groups: Any, fused: bool) -> None:
        super().__init__(groups, fused=fused)
        self.steps: list[dict[int, tuple[float, float]]] = []
        Recorded.made.append(self)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.steps.append(
            {
                id(weight): (group["lr"], group["weight_decay"])
                for group in self.param_groups
                for weight in group["params"]
            }
        )


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Recorded]:
    monkeypatch.setattr(torch.optim, "AdamW", Recorded)
    monkeypatch.setattr(Recorded, "made", [])
    return Recorded.made


def peaks(optimizer: Recorded) -> dict[int, float]:
    weights = optimizer.steps[0]
    return {weight: max(step[weight][0] for step in optimizer.steps) for weight in weights}


def test_learning_rates_fall_geometrically_from_head_to_stem(recorded: list[Recorded]) -> None:
    own = network()
    trained(own, count=12, lr="1e-6:1e-1", freeze_epochs=3, epochs=3, batch_size=2)
    frozen, whole = recorded
    head = {id(weight) for weight in own.resnet.fc.parameters()}
    assert frozen.steps[0].keys() == head
    assert whole.steps[0].keys() == {id(weight) for weight in own.parameters()}
    expected = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
    lrs = peaks(whole)
    for block, lr in zip(own.blocks, expected, strict=True):
        found = [lrs[id(weight)] for weight in block.parameters()]
        assert found == pytest.approx([lr] * len(found), rel=0.05)
    assert list(peaks(frozen).values()) == pytest.approx([1e-1, 1e-1], rel=0.05)


def test_the_learning_rate_rises_and_then_falls_to_almost_0(recorded: list[Recorded]) -> None:
    own = network()
    trained(own, count=12, lr="1e-4:1e-2", freeze_epochs=0, epochs=3, batch_size=2)
    (whole,) = recorded
    lrs = [step[id(own.resnet.fc.bias)][0] for step in whole.steps]
    peak = lrs.index(max(lrs))
    assert 0.2 < peak / len(lrs) < 0.4
    assert lrs[:peak] == sorted(lrs[:peak])
    assert lrs[peak:] == sorted(lrs[peak:], reverse=True)
    assert lrs[0] < 0.3 * max(lrs)
    assert lrs[-1] < 5e-3 * max(lrs)  # in the middle of the last of 18 steps


def test_norms_and_biases_do_not_decay(recorded: list[Recorded]) -> None:
    own = network()
    trained(own, weight_decay=0.125, epochs=1)
    for optimizer in recorded:
        decays = {weight: decay for weight, (_, decay) in optimizer.steps[0].items()}
        for name, weight in own.named_parameters():
            if id(weight) in decays:
                plain = name.endswith(".bias") or "bn" in name or "downsample.1" in name
                assert decays[id(weight)] == (0 if plain else 0.125), name


def test_the_gradient_is_clipped() -> None:
    norms: list[float] = []
    own = network()
    step = torch.optim.AdamW.step

    def watched(optimizer: torch.optim.AdamW, *arguments: Any) -> Any:
        gradients = [p.grad.norm() for p in own.parameters() if p.grad is not None]
        norms.append(float(torch.stack(gradients).norm()))
        return step(optimizer, *arguments)

    nn.init.constant_(own.resnet.fc.bias, 0)
    own.resnet.fc.weight.data *= 100  # so wrong that the gradient is large
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", watched)
        trained(own, freeze_epochs=0, epochs=1)
    assert norms
    assert max(norms) == pytest.approx(1, abs=1e-3)


def test_each_step_has_the_gradient_of_its_own_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same batch at a learning rate of almost 0: the gradient neither grows nor changes."""
    own = network()
    gradients: list[Tensor] = []

    def keep(*_: Any) -> None:
        gradients.append(own.resnet.fc.weight.grad.clone())

    monkeypatch.setattr(torch.optim.AdamW, "step", keep)
    monkeypatch.setattr(module, "_NORM_MAX", 1e9)
    trained(own, freeze_epochs=3, epochs=0, batch_size=24, **STILL)
    assert len(gradients) == 3
    assert gradients[0].abs().max() > 0
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], rtol=0.05, atol=1e-3)


def test_augmentation_s_strengths_reach_the_images() -> None:
    """Options that change the training views change the weights."""
    still = trained(network(), epochs=0, **STILL)
    strengths = {"flip": 1, "rotation": 30, "scale": 0.5, "warp": 0.3, "light": 0.3}
    for name, strength in strengths.items():
        options = STILL | {name: strength}
        assert not the_same(still, trained(network(), epochs=0, **options)), name


def test_bfloat16_reaches_the_weights() -> None:
    exact, rounded = (trained(network(), dtype=d, **STILL) for d in ("float32", "bfloat16"))
    assert not the_same(exact, rounded)
