import os
from pathlib import Path

import pytest
import torch
from torch import nn

from models.errors import RunError
from testkit.processes import files_of_at_most
from training.fine_tuning import checkpoint, schedule
from training.fine_tuning.checkpoint import Progress
from training.network.resnet import Network
from training.run_folder import Epoch


def learner(seed: int = 0) -> tuple[Network, torch.optim.AdamW]:
    """As in training: channels last, with the optimizer of the whole network."""
    torch.manual_seed(seed)
    network = Network("resnet18", 3).train().to(memory_format=torch.channels_last)
    return network, schedule.optimizer(network.blocks, [1e-3] * 6, 0.05)


def step(network: Network, optimizer: torch.optim.AdamW, seed: int) -> None:
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 255
    schedule.apply(optimizer, 0.3)
    loss = nn.functional.cross_entropy(network(images), torch.tensor([0, 1, 2, 0]))
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    optimizer.zero_grad()


def head_only(run: Path, steps: int) -> Path:
    """The file of a checkpoint without moments."""
    before = set(files(run))
    network = Network("resnet18", 3)
    nn.init.constant_(network.resnet.fc.bias, steps)
    checkpoint.write(run, Progress([0.5] * steps), network)
    (made,) = set(files(run)) - before
    return made


def files(run: Path) -> list[Path]:
    """Everything in the folder, whatever it is called."""
    return sorted((run / "checkpoints").iterdir()) if (run / "checkpoints").exists() else []


def test_training_from_a_checkpoint_is_bit_identical(tmp_path: Path) -> None:
    network, optimizer = learner()
    step(network, optimizer, 1)
    epochs = [
        Epoch(phase="head", epoch=1, train_loss=0.1 + 0.2, images_per_s=1 / 7, seconds=2e9),
        Epoch(phase="whole", epoch=2, train_loss=0.1, error=0.25, images_per_s=3.0, seconds=3e9),
    ]
    progress = Progress([1 / 3, 1e-40, 7.0], epochs, threads=3)
    checkpoint.write(tmp_path, progress, network, optimizer)

    found = checkpoint.read(tmp_path)
    assert found
    assert found.progress == progress
    assert found.progress.step == 3
    other, theirs = learner(seed=9)
    found.restore(other, theirs)
    ours, again = network.resnet.state_dict(), other.resnet.state_dict()
    assert all(torch.equal(ours[name], again[name]) for name in ours)
    for own, copy in zip(network.parameters(), other.parameters(), strict=True):
        assert copy.stride() == own.stride()
        assert optimizer.state[own].keys() == theirs.state[copy].keys()
        for name, moment in optimizer.state[own].items():
            kept = theirs.state[copy][name]
            assert torch.equal(kept, moment), name
            assert (kept.stride(), kept.dtype) == (moment.stride(), moment.dtype), name
    assert network.resnet.conv1.weight.is_contiguous(memory_format=torch.channels_last)

    step(network, optimizer, 2)
    step(other, theirs, 2)
    ours, again = network.resnet.state_dict(), other.resnet.state_dict()
    assert all(torch.equal(ours[name], again[name]) for name in ours)


def test_the_number_of_threads_is_that_of_the_process(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert Progress().threads == 2
    finally:
        torch.set_num_threads(before)


def test_moments_of_frozen_weights_are_not_needed(tmp_path: Path) -> None:
    """In the first phase only the head has any."""
    network, _ = learner()
    network.requires_grad_(False)
    network.resnet.fc.requires_grad_(True)
    optimizer = schedule.optimizer(network.blocks, [0.0] * 5 + [1e-3], 0.05)
    step(network.eval(), optimizer, 1)
    checkpoint.write(tmp_path, Progress([0.5]), network, optimizer)
    found = checkpoint.read(tmp_path)
    assert found
    assert sum(name.startswith("exp_avg.") for name in found.tensors) == 2
    found.restore(network, optimizer)
    assert len(optimizer.state) == 2


def test_the_two_newest_are_kept(tmp_path: Path) -> None:
    made = [head_only(tmp_path, steps) for steps in (0, 9, 10, 100)]
    assert files(tmp_path) == made[2:]
    found = checkpoint.read(tmp_path)
    assert found
    assert found.progress.step == 100
    assert found.tensors["network.fc.bias"].tolist() == [100] * 3


def damage(file: Path, how: str) -> None:
    data = bytearray(file.read_bytes())
    if how == "truncated":
        del data[len(data) // 2 :]
    elif how == "emptied":
        data.clear()
    else:
        data[{"flipped in the header": 40, "flipped in a weight": -5}[how]] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    "how", ["truncated", "emptied", "flipped in the header", "flipped in a weight"]
)
def test_a_corrupt_file_falls_back_to_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    _, newest = head_only(tmp_path, 3), head_only(tmp_path, 6)
    damage(newest, how)
    found = checkpoint.read(tmp_path)
    assert found
    assert found.progress.step == 3
    assert capsys.readouterr().out == f"{newest} is corrupt: using the one before it\n"


def test_if_all_are_corrupt_there_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in (head_only(tmp_path, 3), head_only(tmp_path, 6)):
        damage(file, "truncated")
    assert checkpoint.read(tmp_path) is None
    assert capsys.readouterr().out.count(" is corrupt: ") == 2
    checkpoint.remove(tmp_path)
    assert not (tmp_path / "checkpoints").exists()
    assert checkpoint.read(tmp_path) is None


def test_a_corrupt_later_one_does_not_displace_an_intact_one(tmp_path: Path) -> None:
    before, corrupt = head_only(tmp_path, 3), head_only(tmp_path, 9)
    damage(corrupt, "truncated")
    newest = head_only(tmp_path, 6)
    assert files(tmp_path) == [before, newest]


def test_what_a_killed_process_left_half_written_is_deleted(tmp_path: Path) -> None:
    first = head_only(tmp_path, 3)
    (tmp_path / "checkpoints" / ".unfinished-abc").write_bytes(b"half")
    found = checkpoint.read(tmp_path)
    assert found
    assert found.progress.step == 3
    assert files(tmp_path)[1:] == [first]
    newest = head_only(tmp_path, 6)
    assert files(tmp_path) == [first, newest]


def test_a_full_disk_costs_only_the_newest_and_leaves_nothing_behind(tmp_path: Path) -> None:
    before = [head_only(tmp_path, 3), head_only(tmp_path, 6)]
    size = os.path.getsize(before[0])
    with (
        files_of_at_most(size // 2),
        pytest.raises(
            RunError, match="000009-.* cannot be written: File too large; make room"
        ) as e,
    ):
        head_only(tmp_path, 9)
    assert str(e.value).endswith(f"resume with: python -m training train --resume {tmp_path}")
    assert files(tmp_path) == before
    found = checkpoint.read(tmp_path)
    assert found
    assert found.progress.step == 6
