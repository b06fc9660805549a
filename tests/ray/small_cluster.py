"""A Ray cluster of two workers on this machine, which share no folder: each has its own for temporary files."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The least that Ray takes is 75 MB.
_STORE_BYTES = 100 << 20


@dataclass
class SmallCluster:
    """`address` is for clients, `members` for drivers on one of its machines."""

    address: str
    members: str
    folders: list[Path]
    nodes: list[Any]
    _cluster: Any

    def lose(self, folder: Path) -> None:
        """End the node that has this folder, as if its power went."""
        number = self.folders.index(folder)
        self._cluster.remove_node(self.nodes[number], allow_graceful=False)


@contextmanager
def small_cluster(folder: Path, cpus: int = 1) -> Iterator[SmallCluster]:
    from ray.cluster_utils import Cluster

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    head = {
        "num_cpus": 0,
        "object_store_memory": _STORE_BYTES,
        "ray_client_server_port": port,
        "include_dashboard": False,
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        folders = [folder / f"node{number}" for number in (1, 2)]
        nodes = []
        for one in folders:
            one.mkdir()
            nodes.append(
                cluster.add_node(num_cpus=cpus, object_store_memory=_STORE_BYTES, env_vars={"TMPDIR": str(one)})
            )
        yield SmallCluster(f"ray://127.0.0.1:{port}", cluster.address, folders, nodes, cluster)
    finally:
        cluster.shutdown()
