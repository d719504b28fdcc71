"""What a process with Ray does for test_ray.py: it starts a cluster of this machine's processes."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import ray.cluster_utils
from tfm.runtime.fleet.job import Job
from tfm.runtime.fleet.pipeline import run

MEMORY = 80 * 2**20


@contextmanager
def cluster(nodes: int) -> Iterator[Any]:
    """A cluster of so many nodes, with a processor each."""
    head = {
        "num_cpus": 1,
        "object_store_memory": MEMORY,
        "include_dashboard": False,
    }
    made = ray.cluster_utils.Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(nodes - 1):
            made.add_node(num_cpus=1, object_store_memory=MEMORY)
        made.wait_for_nodes()
        yield made
    finally:
        made.shutdown()


def workers(name: str) -> list[psutil.Process]:
    """The processes of Ray under this one that run actors of a class."""
    every = psutil.Process().children(recursive=True)
    return [one for one in every if " ".join(one.cmdline()).startswith(f"ray::{name}")]


def killed(job: Job, out: Path) -> dict[str, int]:
    """A job in which an actor is killed after two blocks, and a node after four."""
    told = {"actors": 0, "nodes": 0}
    with cluster(2) as made:

        def kill(stage: str, done: int, total: int) -> None:
            if done >= 2 * job.rows and not told["actors"]:
                workers("MapWorker")[0].send_signal(signal.SIGKILL)
                told["actors"] += 1
            if done >= 4 * job.rows and not told["nodes"]:
                (other,) = made.worker_nodes
                made.remove_node(other, allow_graceful=False)
                told["nodes"] += 1

        rows, blocks = run(job, out, made.address, 2, kill)
    return {"rows": rows, "blocks": blocks, **told}


if __name__ == "__main__":
    given = json.load(sys.stdin)
    job = Job(**{**given["job"], "bundle": Path(given["job"]["bundle"]), "file": Path(given["job"]["file"])})
    sys.stdout.write(json.dumps(killed(job, Path(given["out"]))))
