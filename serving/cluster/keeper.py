"""What the cluster's machines ask for, in an actor beside the driver."""

from collections import Counter
from typing import Any

import ray

from models.bundle import Bundle


class Keeper:
    """Keeps the bundle, as the driver has read and checked it, and counts attempts at pieces."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = ray.put(bundle)  # once: each machine has one copy, whatever asks for it
        self._attempts: Counter[int] = Counter()

    def bundle(self) -> Any:
        """Ray's reference to it."""
        return self._bundle

    def attempt(self, piece: int) -> int:
        """The number of this attempt at a piece, from 1."""
        self._attempts[piece] += 1
        return self._attempts[piece]


def kept(bundle: Bundle) -> Any:
    """A `Keeper` on the driver's machine, without which nothing goes on anyway."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Keeper).options(num_cpus=0, scheduling_strategy=here).remote(bundle)
