"""How many sessions a cluster takes, and how many cores or which GPU each has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.variants import Device
from serving.cluster.connection import ClusterError
from serving.onnx_runtime import DeviceError
from serving.settings import PREFIX, Settings

CORES = 4  # of a session on a CPU, unless the machines have fewer or the settings say so


@dataclass(frozen=True)
class Workers:
    """count: that the machines take now; cores: of each; device: cuda means one GPU each."""

    count: int
    cores: int
    device: Device

    def resources(self) -> dict[str, Any]:
        """What Ray reserves for each."""
        return {"num_cpus": self.cores, "num_gpus": 1 if self.device == "cuda" else 0}


def sized(nodes: Sequence[Mapping[str, float]], settings: Settings) -> Workers:
    """nodes: the resources `CPU` and `GPU` of each machine that is up.

    Raises DeviceError if CUDA is requested and no machine has a GPU, ClusterError if no machine has
    the cores.
    """
    on_gpus = settings.device != "cpu" and any(node.get("GPU", 0) >= 1 for node in nodes)
    if settings.device == "cuda" and not on_gpus:
        raise DeviceError("no machine of the cluster has a GPU")
    fit = [node for node in nodes if not on_gpus or node.get("GPU", 0) >= 1]
    shares = [_share(node, on_gpus) for node in fit]
    most = int(max((node.get("CPU", 0) for node in fit), default=0))
    cores = settings.cores or min((share for share in shares if share), default=0)
    if not cores or not most:
        raise ClusterError("the machines of the cluster have no cores")
    if cores > most:
        raise ClusterError(
            f"{PREFIX}CORES={cores}: the machines of the cluster have {most} cores at most"
        )
    counts = [int(node.get("CPU", 0)) // cores for node in fit]
    if on_gpus:
        counts = [min(n, int(node["GPU"])) for n, node in zip(counts, fit, strict=True)]
    return Workers(sum(counts), cores, "cuda" if on_gpus else "cpu")


def _share(node: Mapping[str, float], on_gpus: bool) -> int:
    """The cores of one of the machine's sessions."""
    cores = int(node.get("CPU", 0))
    return cores // int(node["GPU"]) if on_gpus else min(cores, CORES)
