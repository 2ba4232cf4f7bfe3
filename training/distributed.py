"""The processes of a training run: one, or as many as `torchrun` started, one per GPU."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Ranks:
    """This process's rank, from 0, the number of processes, and this process's device."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """The one process that writes and prints."""
        return self.rank == 0

    def share(self, rows: Tensor) -> Tensor:
        """This process's part of the rows, which are split along dimension 0."""
        return rows.tensor_split(self.count)[self.rank]

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, in each of them."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def gather(self, part: Tensor) -> Tensor:
        """The inverse of `share`: the parts of all processes, concatenated, on each one's CPU."""
        if self.count == 1:
            return part.cpu()
        parts: list[Tensor | None] = [None] * self.count
        dist.all_gather_object(parts, part.cpu())
        return torch.cat([p for p in parts if p is not None])

    def broadcast(self, value: str) -> str:
        """The first process's value, in all of them."""
        values = [value]
        if self.count > 1:
            dist.broadcast_object_list(values)
        return values[0]

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network, with its gradients averaged over the processes."""
        if self.count == 1:
            return network
        device_ids = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(network, device_ids)


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """Join the processes that `torchrun` started, if any; each gets a GPU of its own."""
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
