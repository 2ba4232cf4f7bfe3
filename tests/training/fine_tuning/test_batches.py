"""The images and views of a step follow from the seed and the step's number alone."""

import re
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.manifest import Task
from testkit import image_sets
from testkit.image_sets import SIZE_PX
from testkit.noise_images import ALONE, CPU, STILL, training, training_images
from training.data.augment import augment, draw
from training.data.decoding import presized
from training.data.prepare import prepare
from training.distributed import Ranks
from training.fine_tuning import batches
from training.fine_tuning.step_timer import Stages


def test_the_training_set_is_the_pictures_of_the_training_side_and_their_targets(
    task: Task, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    single = task == "single"
    folder = tmp_path / "data"
    data = image_sets.class_folders(folder, 6) if single else image_sets.table(folder, 18)
    recipe = image_sets.recipe(data, valid=0.3)
    images = prepare(recipe)
    train, labels = images.split.train, images.dataset.labels
    files = [images.dataset.root / record.file for record in train]
    expected, _ = presized(files, recipe.presize_px)
    for file in files:  # they have been read, and are decoded from memory
        file.unlink()
    capsys.readouterr()
    began_s = time.perf_counter()
    found = batches.training_set(images, recipe, CPU)
    told = re.fullmatch(
        r"training images come from memory, ready after (\d+\.\d) s\n", capsys.readouterr().out
    )
    assert told and float(told[1]) <= time.perf_counter() - began_s + 0.1
    assert found.files == [record.file for record in train] and 0 < len(train) < 18
    ((pixels, _),) = found.source.batches([torch.arange(len(train))])
    assert torch.equal(pixels, expected)
    if single:
        assert [(labels[number],) for number in found.targets.tolist()] == [r.labels for r in train]
    else:
        has = [tuple(n for n, one in zip(labels, row, strict=True) if one) for row in found.targets]
        assert has == [record.labels for record in train]
        assert found.targets.dtype == torch.float32


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"), [(24, 16, [12, 12]), (25, 8, [7, 6, 6, 6])]
)
def test_every_image_is_seen_once_an_epoch_in_a_new_order(
    count: int, batch_size: int, sizes: list[int]
) -> None:
    """Images that encode their own number, with an augmentation of strength 0."""
    numbers = torch.arange(count, dtype=torch.uint8)
    pixels = numbers.view(-1, 1, 1, 1).expand(-1, SIZE_PX, SIZE_PX, 3)
    given = training(pixels, numbers)
    recipe = image_sets.recipe(batch_size=batch_size, **STILL)
    orders = []
    for epoch in range(2):
        rows = batches.order(given, recipe, epoch)
        made = list(batches.batches(given, rows, 0, recipe, ALONE, Stages(CPU)))
        assert [len(targets) for _, targets, _ in made] == sizes
        assert [weight for _, _, weight in made] == [1.0] * len(sizes)
        for (images, targets, _), mine in zip(made, rows, strict=True):
            assert torch.equal(images[:, 0, 0, 0].round().byte(), targets)
            assert torch.equal(targets, numbers[mine])
        orders.append(torch.cat([targets for _, targets, _ in made]))
    assert all(torch.equal(order.sort().values, numbers) for order in orders)
    assert not torch.equal(*orders)


def test_views_differ_in_each_epoch_and_do_not_depend_on_where_a_run_starts() -> None:
    """Random numbers follow from the step's number: a resumed run sees what it would have seen."""
    given, recipe = training_images(), image_sets.recipe(batch_size=8)

    def seen(first_step: int, skipped: int = 0) -> list[Tensor]:
        rows = batches.order(given, recipe, 0)[skipped:]
        made = batches.batches(given, rows, first_step, recipe, ALONE, Stages(CPU))
        return [images for images, _, _ in made]

    whole = seen(3)
    for images, again in zip(whole[1:], seen(4, 1), strict=True):
        assert torch.equal(images, again)
    assert not any(torch.equal(*pair) for pair in zip(whole, seen(0), strict=True))


def test_two_processes_see_the_two_halves_of_what_one_would() -> None:
    """25 images in steps of 9, 8 and 8: the first process has the larger half."""
    given, recipe = training_images(count=25), image_sets.recipe(batch_size=9)
    rows = batches.order(given, recipe, 4)
    whole = list(batches.batches(given, rows, 12, recipe, ALONE, Stages(CPU)))
    halves = [
        list(batches.batches(given, rows, 12, recipe, Ranks(rank, 2, CPU), Stages(CPU)))
        for rank in (0, 1)
    ]
    assert [len(images) for half in halves for images, _, _ in half] == [5, 4, 4, 4, 4, 4]
    for alone, first, second in zip(whole, *halves, strict=True):
        for part in (0, 1):
            assert torch.equal(alone[part], torch.cat([first[part], second[part]]))
        # the mean of the processes' weighted means is the mean over the step
        parts = [weight * float(targets.float().mean()) for _, targets, weight in (first, second)]
        assert sum(parts) / 2 == pytest.approx(float(alone[1].float().mean()))


def test_a_view_is_drawn_by_the_step_s_own_generator() -> None:
    given, recipe = training_images(), image_sets.recipe(batch_size=12, seed=7)
    rows = batches.order(given, recipe, 0)
    made = list(batches.batches(given, rows, 5, recipe, ALONE, Stages(CPU)))
    for step, ((images, targets, _), mine) in enumerate(zip(made, rows, strict=True), 5):
        ((pixels, shapes),) = given.source.batches([mine])
        draws = draw(12, batches.generator(7, "views", step))
        torch.testing.assert_close(images, augment(pixels, shapes, draws, recipe))
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(targets, given.targets[mine])


def test_a_step_is_on_the_process_s_device() -> None:
    """meta: a device without values that every machine has besides its CPU."""
    given, recipe = training_images(), image_sets.recipe(batch_size=12)
    rows = batches.order(given, recipe, 0)
    elsewhere = Ranks(0, 1, torch.device("meta"))
    for images, targets, _ in batches.batches(given, rows, 0, recipe, elsewhere, Stages(CPU)):
        assert (images.device.type, targets.device.type) == ("meta", "meta")


def test_the_order_depends_on_the_seed_and_the_epoch() -> None:
    given = training_images()
    orders = {
        tuple(torch.cat(batches.order(given, image_sets.recipe(seed=seed), epoch)).tolist())
        for seed in (1, 2)
        for epoch in (0, 1, 2)
    }
    assert len(orders) == 6
    for epoch in (0, 1, 2):
        drawn = torch.randperm(24, generator=batches.generator(2, "order", epoch))
        rows = torch.cat(batches.order(given, image_sets.recipe(seed=2), epoch))
        assert torch.equal(rows, drawn)


def test_random_numbers_are_the_same_in_every_version() -> None:
    """Otherwise a run that was started with another version would not resume as it started."""
    seeds = [batches.generator(*of).initial_seed() for of in ((42, "order", 0), (7, "views", 31))]
    assert seeds == [823523545320494534, 177851214988589855]
    first, again = (torch.rand(4, generator=batches.generator(3, "order", 5)) for _ in range(2))
    assert torch.equal(first, again)


class Recorded(Stages):
    """Records its calls."""

    def __init__(self) -> None:
        super().__init__(CPU)
        self.calls: list[str] = []

    def begin(self) -> None:
        self.calls.append("begin")

    def lap(self, stage: str) -> None:
        self.calls.append(stage)


def test_each_step_s_stages_are_timed() -> None:
    given, recipe, stages = training_images(), image_sets.recipe(batch_size=12), Recorded()
    for _ in batches.batches(given, batches.order(given, recipe, 0), 0, recipe, ALONE, stages):
        stages.lap("the caller")
    assert stages.calls == ["begin", "image loading", "augmentation", "the caller"] * 2
