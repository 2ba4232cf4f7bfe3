"""The training loop: the head alone, then the whole network, each under a one-cycle schedule."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from models.errors import RunError
from models.manifest import Task
from training.augment import augment
from training.network import Network
from training.recipe import Recipe

_NORM_MAX = 1.0  # of the gradient


@dataclass(frozen=True)
class Pictures:
    """Training pictures: uint8 `[N, P, P, 3]`, shapes `[N, 2]`, targets `[N]` or `[N, C]`."""

    pixels: Tensor
    shapes: Tensor
    targets: Tensor


@dataclass(frozen=True)
class Epoch:
    """What one epoch did; train_loss is the mean over its images, under augmentation."""

    phase: str
    epoch: int
    train_loss: float
    images_per_s: float


def fine_tune(
    network: Network,
    training: Pictures,
    task: Task,
    recipe: Recipe,
    device: torch.device,
    after_epoch: Callable[[Epoch], None],
) -> None:
    """Train `network` in place. Raises RunError as soon as the loss of an epoch is not finite."""
    generator = torch.Generator().manual_seed(recipe.seed)
    number = 0
    for phase, epochs, rates in _phases(network, recipe):
        if not epochs:
            continue
        body_learns = phase == "whole"
        network.resnet.requires_grad_(body_learns)
        network.resnet.fc.requires_grad_(True)
        optimizer = _optimizer(network.blocks, rates, recipe.weight_decay)
        steps = -(-len(training.targets) // recipe.batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            [group["lr"] for group in optimizer.param_groups],
            total_steps=epochs * steps,
            pct_start=0.3,
            div_factor=5,
            final_div_factor=1e4,
        )
        for _ in range(epochs):
            number += 1
            network.train(body_learns)
            losses = torch.zeros((), device=device)
            started = time.perf_counter()
            bar = tqdm(
                _batches(training, recipe, generator, steps, device),
                f"epoch {number}, {phase}",
                steps,
                unit=" steps",
                leave=False,
                disable=None,
            )
            for images, targets in bar:
                with precision(device):
                    with torch.set_grad_enabled(body_learns):
                        features = network.features(images)
                    loss = loss_of(network.logits(features).float(), targets, task)
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(network.parameters(), _NORM_MAX)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                losses += loss.detach() * len(targets)
            train_loss = float(losses) / len(training.targets)
            seconds = time.perf_counter() - started
            if not torch.isfinite(losses):
                raise RunError(
                    f"the loss of epoch {number} is {train_loss}: training diverged; use a lower"
                    f" --lr than {recipe.lr}"
                )
            after_epoch(Epoch(phase, number, train_loss, len(training.targets) / seconds))


def precision(device: torch.device) -> torch.autocast:
    """bfloat16 where the hardware computes in it, else float32."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)


def loss_of(logits: Tensor, targets: Tensor, task: Task) -> Tensor:
    """Mean cross-entropy (targets: indices `[N]`) or binary cross-entropy (float `[N, C]`)."""
    if task == "single":
        return nn.functional.cross_entropy(logits, targets)
    return nn.functional.binary_cross_entropy_with_logits(logits, targets)


def _phases(network: Network, recipe: Recipe) -> list[tuple[str, int, list[float]]]:
    """Name, epochs and one peak rate a block: falling geometrically from head to stem."""
    stem, head = recipe.whole_rates
    last = len(network.blocks) - 1
    whole = [stem * (head / stem) ** (number / last) for number in range(last + 1)]
    alone = [0.0] * last + [recipe.head_rate]
    return [("head", recipe.freeze_epochs, alone), ("whole", recipe.epochs, whole)]


def _optimizer(blocks: list[nn.Module], rates: list[float], decay: float) -> torch.optim.Optimizer:
    groups = []
    for block, rate in zip(blocks, rates, strict=True):
        learning = [p for p in block.parameters() if p.requires_grad]
        weights, others = [p for p in learning if p.ndim > 1], [p for p in learning if p.ndim == 1]
        groups += [{"params": weights, "lr": rate, "weight_decay": decay}] if weights else []
        groups += [{"params": others, "lr": rate, "weight_decay": 0.0}] if others else []
    return torch.optim.AdamW(groups, fused=True)


def _batches(
    training: Pictures, recipe: Recipe, generator: torch.Generator, steps: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Every image once, in a new order, in `steps` batches of nearly equal size."""
    order = torch.randperm(len(training.targets), generator=generator)
    for rows in order.tensor_split(steps):
        pixels = training.pixels[rows].to(device, non_blocking=True)
        images = augment(pixels, training.shapes[rows], recipe, generator)
        yield (
            images.contiguous(memory_format=torch.channels_last),
            training.targets[rows].to(device, non_blocking=True),
        )
