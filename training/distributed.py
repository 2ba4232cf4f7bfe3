"""The processes of a training run: one, or as many as `torchrun` started, one a GPU."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Ranks:
    """This process among all: its number from 0, how many there are, and its device."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """The one process that writes and prints."""
        return self.rank == 0

    def share(self, rows: Tensor) -> Tensor:
        """This process's part of what all of them work on: split along dimension 0."""
        return rows.tensor_split(self.count)[self.rank]

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the processes, the same in each."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def gather(self, part: Tensor) -> Tensor:
        """What `share` took apart, put together again, in each process; on the CPU."""
        if self.count == 1:
            return part.cpu()
        parts: list[Tensor | None] = [None] * self.count
        dist.all_gather_object(parts, part.cpu())
        return torch.cat([p for p in parts if p is not None])

    def agree(self, value: str) -> str:
        """The first process's value, in each."""
        values = [value]
        if self.count > 1:
            dist.broadcast_object_list(values)
        return values[0]

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network whose gradients are the mean over the processes."""
        if self.count == 1:
            return network
        device_ids = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(network, device_ids)


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Join the processes that `torchrun` started, if it did; each gets a GPU of its own."""
    count, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    if count == 1:
        yield Ranks(0, 1, device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(rank, count, device)
    finally:
        dist.destroy_process_group()
