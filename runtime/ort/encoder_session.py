"""An encoder's graph on ONNX Runtime: one text a row, whole, in a single run.

On a CPU few texts a run are faster than many: those of nearly one length share little padding, and what
passes from operator to operator stays in the caches.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnxruntime as ort

from ...refimpl.config import Config
from ...refimpl.ops.model import position_tables
from ..bundle.graph_io import Graph
from .device_buffer import Buffer
from .session import one_line

# Tokens of a run, padding included. Of 32 sentences in int8-dynamic (six layers of 384, 35 to 56 tokens, two
# cores with 1 MB of L2 each) runs of 16, 8 and 4 take 0.84, 0.76 and 0.81 times what a single one takes.
PIECE = 512


def pieces(lengths: np.ndarray) -> list[np.ndarray]:
    """Rows that are read in one run, the shortest first: no more than `PIECE` tokens, or one row."""
    order = np.argsort(lengths, kind="stable")
    made, begin = [], 0
    for end in range(1, len(order)):
        if (end + 1 - begin) * lengths[order[end]] > PIECE:
            made.append(order[begin:end])
            begin = end
    return [*made, order[begin:]]


class Encoder:
    """A session over an encoder's graph, with its tables of cosines and sines."""

    def __init__(self, session: ort.InferenceSession, graph: Graph, config: Config, dtype: np.dtype) -> None:
        self.session, self.graph, self.config, self.dtype = session, graph, config, dtype
        self._tables: dict[str, np.ndarray] = {}
        self._rows = 0

    def run(
        self, ids: np.ndarray, lengths: np.ndarray, types: np.ndarray | None, made: Mapping[str, Buffer]
    ) -> None:
        """Read the ids [B, T], and write the outputs where `made` says, by name."""
        io = self.session.io_binding()
        given = {"tokens": ids, "lengths": lengths, "types": np.zeros_like(ids) if types is None else types}
        given |= self._ropes(ids.shape[1])
        held = [np.ascontiguousarray(given[port.name]) for port in self.graph.inputs]
        for port, array in zip(self.graph.inputs, held, strict=True):
            io.bind_input(port.name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for port in self.graph.outputs:
            buffer = made[port.name]
            io.bind_output(port.name, buffer.device, 0, buffer.dtype, buffer.shape, buffer.pointer)
        with one_line(f"{self.graph.file} can't be run"):
            self.session.run_with_iobinding(io)

    def shapes(self, ids: np.ndarray) -> dict[str, tuple[int, ...]]:
        """Shapes of the outputs for ids of this shape, by name."""
        sizes: dict[str, int] = dict(zip(("batch", "time"), ids.shape, strict=True))
        return {
            port.name: tuple(sizes[a] if isinstance(a, str) else a for a in port.axes)
            for port in self.graph.outputs
        }

    def _ropes(self, rows: int) -> dict[str, np.ndarray]:
        if rows > self._rows:
            self._rows = max(rows, min(2 * self._rows, self.config.context))
            tables = position_tables(np.arange(self._rows), config=self.config)
            self._tables = {
                f"{side}.{i}": table.astype(self.dtype)
                for i, pair in enumerate(tables.values())
                for side, table in zip(("cos", "sin"), pair, strict=True)
            }
        return {name: table[:rows] for name, table in self._tables.items()}
