"""A client of a bundle's graphs on any runtime, which needs NumPy alone; as a program it runs on OpenVINO.

    python graph_client.py < jobs.json > results.json

A job has the path of a `model`, its `inputs` as [name, axes, type], the `tables` of cosines and sines, a
`prompt`, the `count` of tokens to generate, and whether the cache `grows` as GroupQueryAttention's can.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


def answer(run: Run, job: Mapping[str, Any]) -> list[int]:
    """A decoder's greedy tokens after the prompt, or an encoder's best output at each of its places."""
    tables = {name: np.array(rows, np.float32) for name, rows in job["tables"].items()}
    prompt = list(job["prompt"])
    if not any(name == "past" for name, *_ in job["inputs"]):
        ids = np.array([prompt])
        feeds = {"tokens": ids, "lengths": np.array([len(prompt)]), "token_types": np.zeros_like(ids)}
        feeds |= {name: rows[: len(prompt)] for name, rows in tables.items()}
        given = {name: feeds[name] for name, *_ in job["inputs"]}
        return run(given)["predictions"][0].argmax(-1).tolist()
    capacity = len(prompt) + job["count"]
    sizes = {"batch": 1, "capacity": 0 if job["grows"] else capacity}
    cache = {
        name: np.zeros([sizes.get(axis, axis) for axis in axes], np.float32)
        for name, axes, _ in job["inputs"]
        if name.startswith(("k.", "v."))
    }
    past, new, found = 0, prompt, []
    for _ in range(job["count"]):
        feeds = {"tokens": np.array([new]), "past": np.array([past]), "at": np.array([[len(new) - 1]])}
        outputs = run(feeds | cache | {name: rows[:capacity] for name, rows in tables.items()})
        cache = {name: np.array(outputs[name.replace(".", "_out.")]) for name in cache}
        past, new = past + len(new), [int(outputs["logits"][0, -1].argmax())]
        found += new
    return found


def openvino(model: str) -> Run:
    """A graph on OpenVINO's CPU device, which may not round activations to fewer bits of its own accord."""
    import openvino as ov  # pyright: ignore[reportMissingImports]  (in an environment of its own)

    exact = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    compiled = ov.Core().compile_model(model, "CPU", exact)

    def run(feeds: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        outputs = compiled(dict(feeds))
        return {name: outputs[port] for port in compiled.outputs for name in port.names}

    return run


if __name__ == "__main__":
    json.dump([answer(openvino(job["model"]), job) for job in json.load(sys.stdin)], sys.stdout)
