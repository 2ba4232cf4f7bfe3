"""A real Ray cluster of several machines, each a group of processes on this one."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SETTINGS: dict[str, Any] = {"object_store_memory": 100 * 2**20, "include_dashboard": False}
SLOW = "rfc3987_syntax"
"""A library of the tests from which jsonschema, in each of Ray's processes, makes a parser for two
seconds; a machine of Ray's that is not up in fifteen gives up.
"""


@contextmanager
def cluster(nodes: int) -> Iterator[tuple[str, list[Any], Any]]:
    """The address of its head, which scores nothing; nodes of one core each; the whole cluster,
    whose `remove_node(node, allow_graceful=False)` loses one.
    """
    from ray import cluster_utils

    make: Any = cluster_utils.Cluster  # not all of it is typed

    with _without_slow_imports():
        whole = make(initialize_head=True, head_node_args={"num_cpus": 0, **SETTINGS})
        try:
            own = [whole.add_node(num_cpus=1, **SETTINGS) for _ in range(nodes)]
            whole.wait_for_nodes()
            yield whole.address, own, whole
        finally:
            whole.shutdown()


@contextmanager
def _without_slow_imports() -> Iterator[None]:
    """In processes that are started meanwhile."""
    before = os.environ.get("PYTHONPATH")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, f"{SLOW}.py").write_text("raise ImportError\n")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, before]))
        try:
            yield
        finally:
            if before is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = before
