import pytest

from models.errors import LabradorError
from serving.cluster.connection import ClusterError
from serving.cluster.workers import Workers, sized
from serving.onnx_runtime import DeviceError
from serving.settings import Settings

HEAD: dict[str, float] = {"memory": 1}
SMALL: dict[str, float] = {"CPU": 2}
LARGE: dict[str, float] = {"CPU": 17}
GPUS: dict[str, float] = {"CPU": 16, "GPU": 2}


@pytest.mark.parametrize(
    ("nodes", "settings", "expected"),
    [
        ([HEAD, LARGE, LARGE], Settings(), Workers(8, 4, "cpu")),
        ([HEAD, LARGE, SMALL], Settings(), Workers(9, 2, "cpu")),
        ([LARGE, SMALL], Settings(cores=8), Workers(2, 8, "cpu")),
        ([LARGE, GPUS], Settings(), Workers(2, 8, "cuda")),
        ([LARGE, GPUS], Settings(device="cuda", cores=16), Workers(1, 16, "cuda")),
        ([LARGE, GPUS], Settings(device="cpu"), Workers(8, 4, "cpu")),
        ([{"CPU": 16, "GPU": 1}], Settings(cores=4), Workers(1, 4, "cuda")),
    ],
)
def test_sessions_fill_the_machines_and_have_a_gpu_each_where_there_are_some(
    nodes: list[dict[str, float]], settings: Settings, expected: Workers
) -> None:
    assert sized(nodes, settings) == expected


def test_ray_reserves_the_cores_and_the_gpu() -> None:
    assert Workers(2, 8, "cuda").resources() == {"num_cpus": 8, "num_gpus": 1}
    assert Workers(2, 8, "cpu").resources() == {"num_cpus": 8, "num_gpus": 0}


@pytest.mark.parametrize(
    ("nodes", "settings", "error", "message"),
    [
        ([LARGE], Settings(device="cuda"), DeviceError, "no machine of the cluster has a GPU"),
        (
            [SMALL, LARGE],
            Settings(cores=18),
            ClusterError,
            "LABRADOR_CORES=18: the machines of the cluster have 17 cores at most",
        ),
        ([HEAD], Settings(), ClusterError, "the machines of the cluster have no cores"),
    ],
)
def test_what_the_cluster_does_not_have_is_named(
    nodes: list[dict[str, float]], settings: Settings, error: type[LabradorError], message: str
) -> None:
    with pytest.raises(error) as caught:
        sized(nodes, settings)
    assert str(caught.value) == message
