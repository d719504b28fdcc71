"""RUNTIMES.md's table of the inputs and outputs of a bundle's graphs, for clients without tfm.

PYTHONPATH=tests python -m reports.ports
"""

# ruff: noqa: T201  (a script: what it prints is its result)

from __future__ import annotations

import re

from helpers import tiny_models
from tfm.refimpl.config import Config
from tfm.runtime.bundle.graph_io import MEANINGS, Graph, Port, graphs

HEAD = ("of a", "input", "output", "type", "shape", "what it holds")
# Models that have all ports of attention between them, and whether their caches are windowed.
MODELS: tuple[tuple[Config, bool], ...] = (
    (tiny_models.llama(), False),
    (tiny_models.llama(window=5), True),
    (tiny_models.encoder_decoder(), False),
    (tiny_models.encoder(), False),
)


def table() -> str:
    """Each port of a decoder's graph and of an encoder's, as the first model has it."""
    found: dict[tuple[str, ...], tuple[str, ...]] = {}
    for config, windowed in MODELS:
        for graph in graphs(config, windowed):
            for row in _rows(graph, config):
                found.setdefault(row[:3], row)
    lines = [HEAD, ("---",) * len(HEAD), *sorted(found.values(), key=lambda row: row[0])]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rows(graph: Graph, config: Config) -> list[tuple[str, ...]]:
    """A row for each port; an array of the cache has its input and output in one."""
    outputs = {_stem(port): f"`{_generic(port)}`" for port in graph.outputs}
    rows: dict[str, tuple[str, ...]] = {}
    for port in (*graph.inputs, *graph.outputs):
        name = _stem(port)
        given = "" if port in graph.outputs else f"`{_generic(port)}`"
        kind = port.dtype or ("float32" if name in ("logits", "predictions") else "`dtype`")
        of = "encoder" if graph.encodes else "decoder"
        row = (of, given, outputs.get(name, ""), kind, _shape(port, config), MEANINGS[name])
        rows.setdefault(name, row)
    return list(rows.values())


def _stem(port: Port) -> str:
    return port.name.split(".")[0].removesuffix("_out")


def _generic(port: Port) -> str:
    """A port's name for any layer, rotary setting or window."""
    return re.sub(r"\d+$", {"cos": "J", "sin": "J", "window_length": "W"}.get(_stem(port), "I"), port.name)


def _shape(port: Port, config: Config) -> str:
    """The axes, with the Config's names for sizes."""
    (stack, *_) = config.stacks.values()
    attention = stack.attentions[0]
    sizes = {config.embedding.vocabulary: "vocabulary", attention.kv_heads: "kv_heads"}
    sizes |= {attention.head_size: "head_size", attention.head_size // 2: "dims / 2"}
    return ", ".join(axis if isinstance(axis, str) else sizes[axis] for axis in port.axes)


if __name__ == "__main__":
    print(table())
