"""Run a decoder's session with inputs and outputs that are bound by address. Each step binds only its tokens
and logits again.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnxruntime as ort

from ...refimpl.config import Config
from ...refimpl.engine.cache_kinds import array_names, cache_kinds, encoder_kinds
from ...refimpl.ops.position_tables import position_tables
from ..bundle.graph_io import Graph, row_length_names
from .chunked_step import StepArrays
from .decode_step import AHEAD, DecodeSteps
from .device_buffer import Binding, DeviceBuffer, zeros
from .kv_cache import CacheBuffers, flat


def row_lengths(window: int | None, lengths: np.ndarray, time: int) -> dict[str, np.ndarray]:
    """Return GroupQueryAttention's inputs seqlens and total, by name, for the layers with this window.

    The cache of these layers contains `lengths` [B] tokens, and a step adds `time` tokens to each row.
    """
    values = (lengths + (time - 1)).astype(np.int32), np.array(lengths.max() + time, np.int32)
    return dict(zip(row_length_names(window), values, strict=True))


class DecoderSession:
    """A session of a decoder's graph, with the names of the cache's arrays and the rotary tables that the
    graph reads.
    """

    def __init__(
        self, session: ort.InferenceSession, graph: Graph, config: Config, dtype: np.dtype, device: str
    ) -> None:
        self.session, self.config, self.dtype, self.device = session, config, dtype, device
        self._past_names = array_names(cache_kinds(config))
        self._new_names = array_names(cache_kinds(config), "_out")
        self._encoder_names = array_names(encoder_kinds(config))
        self._ports = {port.name for port in (*graph.inputs, *graph.outputs)}
        self.gives_best = "best" in self._ports
        # Where a step is captured, the runs that aren't say so.
        self.options: ort.RunOptions | None = None
        self._tables: dict[str, DeviceBuffer] = {}
        self._positions = 0

    def run(self, binding: Binding, step: StepArrays, window_lengths: dict[int, np.ndarray]) -> None:
        """Run a step. The graph writes the step's logits and the bound cache.

        `window_lengths` gives the number of tokens [B] that the layers of each window hold.
        """
        inputs = {"tokens": step.tokens, "past": step.past, "at": step.at}
        if step.hidden is not None:
            inputs["hidden"] = step.hidden
        if "lengths" in self._ports:
            inputs["lengths"] = step.lengths
        if "seqlens" in self._ports:
            time = step.tokens.shape[1]
            for window, lengths in ((None, step.past), *window_lengths.items()):
                inputs |= row_lengths(window, lengths, time)
        else:
            inputs |= {f"window_length.{window}": lengths for window, lengths in window_lengths.items()}
        for name, array in inputs.items():
            bound = binding.arrays.get(name)
            # Binding takes longer than a copy. A GPU gets its copy of an input when that is bound.
            if bound is not None and bound.shape == array.shape and self.device == "cpu":
                bound[...] = array
                continue
            binding.arrays[name] = bound = np.array(array, order="C")
            binding.io.bind_input(name, "cpu", 0, bound.dtype, bound.shape, bound.ctypes.data)
        logits = step.logits
        binding.io.bind_output("logits", "cpu", 0, logits.dtype, logits.shape, logits.ctypes.data)
        if (vectors := step.hidden_out) is not None:
            binding.io.bind_output("hidden_out", "cpu", 0, vectors.dtype, vectors.shape, vectors.ctypes.data)
        self.session.run_with_iobinding(binding.io, self.options)

    def bindings(self, buffers: CacheBuffers) -> tuple[Binding, Binding]:
        """Return two bindings for steps of a whole batch.

        The first binding is for this step. The second is for the next step, in which a copied cache
        exchanges its two sets of buffers.
        """
        this = self.bind(buffers)
        return this, this if buffers.spare is None else self.bind(buffers.swapped())

    def decode_steps(self, buffers: CacheBuffers, captures: Iterator[int] | None) -> DecodeSteps:
        """Return steps of one token per row on these buffers. For a copied cache there are two steps, and
        each reads the buffers that the other writes.
        """
        shape = (buffers.batch, 1, self.config.embedding.vocabulary)
        logits, entries = zeros(shape, np.dtype(np.float32), self.device), buffers.entries()
        # A graph that gives best tokens writes its cache in place.
        in_place = (buffers,) * (AHEAD if self.gives_best else 1)
        circle = in_place if buffers.spare is None else (buffers, buffers.swapped())
        bindings = [self.bind(one) for one in circle]
        return DecodeSteps(self.session, bindings, logits, self._ports, entries, self.options, captures)

    def bind(self, buffers: CacheBuffers, row: int | None = None) -> Binding:
        """Bind the cache, the rotary tables and the encoder's keys and values by address.

        With `row`, the binding covers only the memory of this row.
        """
        io = self.session.io_binding()
        tables = self._position_tables(buffers.capacity)
        for name, table in tables.items():
            shape = (buffers.capacity, table.shape[1])
            io.bind_input(name, table.device, 0, table.dtype, shape, table.pointer)
        read, write, encoder_kv = (
            flat(buffers.layers),
            flat(buffers.spare or buffers.layers),
            buffers.encoder_kv,
        )
        bound = [(io.bind_input, self._past_names, read), (io.bind_output, self._new_names, write)]
        if encoder_kv is not None:
            names = [*self._encoder_names, "encoder_lengths"]
            bound.append((io.bind_input, names, [*encoder_kv.buffers, encoder_kv.lengths]))
        for bind, names, arrays in bound:
            for name, buffer in zip(names, arrays, strict=True):
                shape = buffer.shape if row is None else (1, *buffer.shape[1:])
                bind(name, buffer.device, 0, buffer.dtype, shape, buffer.address(row or 0))
        return Binding(io, (tables, read, write, encoder_kv), {})

    def _position_tables(self, count: int) -> dict[str, DeviceBuffer]:
        """Return the cosines and sines of at least `count` positions, by the name of their graph input."""
        if count > self._positions:
            tables = position_tables(np.arange(count), config=self.config)
            self._tables = {
                f"{side}.{i}": DeviceBuffer(np.ascontiguousarray(table, self.dtype), self.device)
                for i, rope in enumerate(self.config.ropes)
                for side, table in zip(("cos", "sin"), tables[rope], strict=True)
                if f"{side}.{i}" in self._ports
            }
            self._positions = count
        return self._tables
