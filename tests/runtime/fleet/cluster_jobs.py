"""What a process with Ray does for test_ray.py: it starts a cluster of this machine's processes."""

from __future__ import annotations

import json
import random
import signal
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pyarrow as pa  # pyright: ignore[reportMissingImports]
import pyarrow.parquet as pq  # pyright: ignore[reportMissingImports]
import ray.cluster_utils  # pyright: ignore[reportMissingImports]  (in an environment of its own)
from ray import serve  # pyright: ignore[reportMissingImports]
from tfm.refimpl.errors import ArgumentError
from tfm.runtime.fleet import app
from tfm.runtime.fleet.job import Job
from tfm.runtime.fleet.pipeline import run
from tfm.runtime.fleet.rows import texts

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


def killed(out: str, bundle: str, file: str, **given: Any) -> dict[str, int]:
    """A job in which an actor is killed after two blocks, and a node after four."""
    job = Job(bundle=Path(bundle), file=Path(file), **given)
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

        rows, blocks = run(job, Path(out), made.address, 2, kill)
    return {"rows": rows, "blocks": blocks, **told}


def broken(bundle: str, chat: dict[str, Any], waiting: int) -> dict[str, Any]:
    """A server whose only replica is killed while it streams an answer and others wait for its slot.

    The stream's first and last event, the answers to the `waiting` others, and the figures.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with cluster(1) as made:
        ray.init(made.address, log_to_driver=False, logging_level="ERROR")
        serve.start(http_options={"port": port})
        serve.run(app({"bundle": bundle, "slots": "1"}))
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=120) as http:
            told = _kill(http, chat | {"model": Path(bundle).name}, waiting)
        serve.shutdown()
        ray.shutdown()
    return told


def _kill(http: httpx.Client, chat: dict[str, Any], waiting: int) -> dict[str, Any]:
    path, long = "/v1/chat/completions", chat | {"stream": True, "max_tokens": None}
    with ThreadPoolExecutor(waiting) as pool, http.stream("POST", path, json=long) as stream:
        events = (line for line in stream.iter_lines() if line)
        first = next(events)
        others = [pool.submit(http.post, path, json=chat) for _ in range(waiting)]
        until = time.monotonic() + 60
        while f'tfm_waiting{{model="{chat["model"]}"}} {waiting}.0' not in http.get("/metrics").text:
            assert time.monotonic() < until
        (replica,) = workers("ServeReplica:default:replica")
        replica.send_signal(signal.SIGKILL)
        *_, last = events
        answers = [other.result() for other in others]
    lines = http.get("/metrics").text.splitlines()
    counts = [line.split('"')[1:] for line in lines if line.startswith("tfm_fleet_requests_total")]
    return {
        "first": json.loads(first.removeprefix("data: ")),
        "last": json.loads(last.removeprefix("data: ")),
        "answers": [answer.json()["choices"][0]["message"]["content"] for answer in answers],
        "counts": {outcome: int(float(rest.removeprefix("} "))) for outcome, rest in counts},
    }


def parquet(folder: str) -> dict[str, Any]:
    """What `texts` says of Parquet files: a good one, two columns of one name, none, and damaged bytes."""
    draw, path = random.Random(1), Path(folder) / "in.parquet"

    def said() -> list[str] | str:
        try:
            return list(texts(path, "text"))
        except ArgumentError as error:
            return str(error)

    told: dict[str, Any] = {}
    for names in (["text", "text"], ["x\n", "y"], ["x", "text"]):
        pq.write_table(pa.table([["a", "b"], ["c", "d"]], names=names), path)
        told[" ".join(names)] = said()
    whole = path.read_bytes()
    told["damaged"] = []
    for _ in range(200):
        at = draw.randrange(len(whole))
        path.write_bytes(whole[:at] + draw.randbytes(2) + whole[at + 2 :])
        told["damaged"].append(said())
    return told


if __name__ == "__main__":
    given = json.load(sys.stdin)
    told = {"killed": killed, "broken": broken, "parquet": parquet}[sys.argv[1]](**given)
    sys.stdout.write(f"\n{json.dumps(told)}")
