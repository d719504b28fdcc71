"""Run an encoder's graph on ONNX Runtime. A run reads several whole texts, one in each row.

On a CPU, several runs of few texts are faster than one run of many. Texts of nearly equal length need
little padding, and the values passed between operators stay in the processor's caches.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnxruntime as ort

from ...refimpl.config import Config
from ...refimpl.ops.position_tables import position_tables
from ..bundle.graph_io import Graph
from .device_buffer import DeviceBuffer
from .session import one_line

# Tokens of a run, padding included. Of 32 sentences in int8-dynamic (six layers of 384, 35 to 56 tokens, two
# cores with 1 MB of L2 each) runs of 16, 8 and 4 take 0.84, 0.76 and 0.81 times what a single one takes.
TOKENS_PER_RUN = 512


def runs(lengths: np.ndarray) -> list[np.ndarray]:
    """Split texts of these lengths into runs. Returns the indices of the rows of each run, the shortest rows
    first.

    A run has at most `TOKENS_PER_RUN` tokens, or only one row.
    """
    order = np.argsort(lengths, kind="stable")
    batches = []
    begin = 0
    for end in range(1, len(order)):
        if (end + 1 - begin) * lengths[order[end]] > TOKENS_PER_RUN:
            batches.append(order[begin:end])
            begin = end
    return [*batches, order[begin:]]


class EncoderSession:
    """A session of an encoder's graph, with the tables of cosines and sines that the graph reads."""

    def __init__(
        self,
        session: ort.InferenceSession,
        graph: Graph,
        config: Config,
        dtype: np.dtype,
        device: str = "cpu",
    ) -> None:
        self.session, self.graph, self.config, self.dtype = session, graph, config, dtype
        self.device = device
        self._tables: dict[str, np.ndarray] = {}
        self._positions = 0

    def run(
        self,
        ids: np.ndarray,
        lengths: np.ndarray,
        token_types: np.ndarray | None,
        outputs: Mapping[str, DeviceBuffer],
    ) -> None:
        """Encode token ids [B, T], or the frames or samples of sounds. The graph writes its outputs into the
        buffers of `outputs`, by name.

        On a CPU, sounds are encoded one after the other. One sound alone keeps all cores busy, and a run
        of several sounds would need several times the memory.
        """
        token_types = np.zeros_like(ids) if token_types is None else token_types
        inputs = {"tokens": ids, "lengths": lengths, "token_types": token_types}
        if self.config.sound_shape is not None:
            sound = ids.astype(self.dtype, copy=False)
            inputs = {"frames": sound, "samples": sound}
        batch = 1 if self.config.sound_shape is not None and self.device == "cpu" else len(ids)
        inputs = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        tables = self._position_tables(self.config.positions(ids.shape[1]))
        io = self.session.io_binding()
        for first in range(0, len(ids), batch):
            rows = {name: array[first : first + batch] for name, array in inputs.items()} | tables
            for port in self.graph.inputs:
                array = rows[port.name]
                io.bind_input(port.name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
            for name, buffer in outputs.items():
                shape = (batch, *buffer.shape[1:])
                io.bind_output(name, buffer.device, 0, buffer.dtype, shape, buffer.address(first))
            with one_line(f"{self.graph.file} can't be run"):
                self.session.run_with_iobinding(io)

    def shapes(self, ids: np.ndarray) -> dict[str, tuple[int, ...]]:
        """Return a dict from the name of each output to the shape that it has for these ids."""
        sizes = {"batch": ids.shape[0], "time": self.config.positions(ids.shape[1])}
        return {
            port.name: tuple(sizes[a] if isinstance(a, str) else a for a in port.axes)
            for port in self.graph.outputs
        }

    def _position_tables(self, count: int) -> dict[str, np.ndarray]:
        if count > self._positions:
            self._positions = max(count, min(2 * self._positions, self.config.context))
            tables = position_tables(np.arange(self._positions), config=self.config)
            self._tables = {
                f"{side}.{i}": table.astype(self.dtype)
                for i, pair in enumerate(tables.values())
                for side, table in zip(("cos", "sin"), pair, strict=True)
            }
        return {name: table[:count] for name, table in self._tables.items()}
