"""A real Ray cluster of several machines, each a group of processes on this one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from testkit import json_schema

SETTINGS: dict[str, Any] = {"object_store_memory": 100 * 2**20, "include_dashboard": False}


@contextmanager
def cluster(nodes: int) -> Iterator[tuple[str, list[Any], Any]]:
    """The address of its head, which scores nothing; nodes of one core each; the whole cluster,
    whose `remove_node(node, allow_graceful=False)` loses one.
    """
    from ray import cluster_utils

    make: Any = cluster_utils.Cluster  # not all of it is typed

    with json_schema.without_iris():  # a machine of Ray's that is not up in 15 s gives up
        whole = make(initialize_head=True, head_node_args={"num_cpus": 0, **SETTINGS})
        try:
            own = [whole.add_node(num_cpus=1, **SETTINGS) for _ in range(nodes)]
            whole.wait_for_nodes()
            yield whole.address, own, whole
        finally:
            whole.shutdown()
