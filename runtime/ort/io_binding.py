"""A decoder's session whose inputs and outputs are bound by address; a step brings its tokens and logits."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnxruntime as ort

from ...refimpl.config import Config
from ...refimpl.ops.model import position_tables
from ..bundle.graph_io import Graph
from .device_buffer import Buffer
from .kv_cache import State


class Binding(NamedTuple):
    """An io_binding, and what it points to by address alone."""

    io: ort.IOBinding
    alive: tuple


class Bound:
    """The session of a decoder's graph, the names of its caches, and its rotary tables."""

    def __init__(
        self, session: ort.InferenceSession, graph: Graph, config: Config, dtype: np.dtype, device: str
    ) -> None:
        self.session, self.config, self.dtype, self.device = session, config, dtype, device
        layers = range(len(config.layers))
        self._caches = [f"{side}.{i}" for i in layers for side in "kv"]
        self._new = [f"{side}_out.{i}" for i in layers for side in "kv"]
        self._ports = {port.name for port in graph.inputs}
        self._tables: dict[str, Buffer] = {}
        self._rows = 0

    def run(
        self,
        bound: Binding,
        tokens: np.ndarray,
        past: np.ndarray,
        at: np.ndarray,
        logits: np.ndarray,
        held: dict[int, np.ndarray],
    ) -> None:
        """Fill `logits` [B, P, N] and the bound caches from tokens [B, T]; `held` [B] is of each window."""
        tokens, past, at = (np.ascontiguousarray(a) for a in (tokens, past, at))
        lengths = [(f"window_length.{size}", count) for size, count in held.items()]
        for name, array in (("tokens", tokens), ("past", past), ("at", at), *lengths):
            bound.io.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        bound.io.bind_output("logits", "cpu", 0, logits.dtype, logits.shape, logits.ctypes.data)
        self.session.run_with_iobinding(bound.io)

    def bindings(self, state: State) -> tuple[Binding, Binding]:
        """Those of a whole batch: this step's and, with the buffers exchanged, the next one's."""
        if state.spare is None:
            here = self.bind(state, state.now, state.now)
            return here, here
        turns = (state.now, state.spare), (state.spare, state.now)
        here, there = (self.bind(state, *turn) for turn in turns)
        return here, there

    def bind(self, state: State, read: list[Buffer], write: list[Buffer], row: int | None = None) -> Binding:
        """Caches, tables and memory bound by address; with `row`, the cache of that row alone."""
        io = self.session.io_binding()
        capacity, memory = state.capacity, state.memory
        tables = self._ropes(capacity)
        for name, table in tables.items():
            shape = (capacity, table.shape[1])
            io.bind_input(name, table.device, 0, table.dtype, shape, table.pointer)
        ports = [(io.bind_input, self._caches, read), (io.bind_output, self._new, write)]
        if memory is not None:
            names = [f"{side}.{i}" for i in range(len(self.config.layers)) for side in ("keys", "values")]
            ports.append((io.bind_input, [*names, "source"], [*memory.buffers, memory.lengths]))
        for bind, names, buffers in ports:
            for name, buffer in zip(names, buffers, strict=True):
                shape = buffer.shape if row is None else (1, *buffer.shape[1:])
                bind(name, buffer.device, 0, buffer.dtype, shape, buffer.address(row or 0))
        return Binding(io, (tables, read, write, memory))

    def _ropes(self, rows: int) -> dict[str, Buffer]:
        """Cosines and sines of at least `rows` positions, by the name of their graph input."""
        if rows > self._rows:
            made = position_tables(np.arange(rows), config=self.config)
            self._tables = {
                f"{name}.{i}": Buffer(np.ascontiguousarray(table, self.dtype), self.device)
                for i, rope in enumerate(self.config.ropes)
                for name, table in zip(("cos", "sin"), made[rope], strict=True)
                if f"{name}.{i}" in self._ports
            }
            self._rows = rows
        return self._tables
