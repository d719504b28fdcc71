"""Store an encoder's keys and values for a decoder. They stay in the memory to which the encoder wrote
them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .device_buffer import DeviceBuffer


@dataclass(frozen=True)
class EncoderKV:
    """An encoder's keys and values for the decoder. The arrays never change, so caches may share their
    memory.

    - `buffers`: the arrays that `encoder_kinds` names, layer by layer.
    - `lengths` [B]: the lengths of the texts.
    - `texts` [B]: the number of each row's text. Rows with the same number have equal content. So beam
      search, which reorders the rows of one text at each step, copies nothing.
    """

    buffers: list[DeviceBuffer]
    lengths: DeviceBuffer
    texts: np.ndarray

    @property
    def nbytes(self) -> int:
        return sum(buffer.nbytes for buffer in self.buffers)

    def selected(self, rows: np.ndarray) -> EncoderKV:
        """Return the keys and values of the given rows. On a CPU, consecutive rows are a view of the memory.

        A view saves time, because the keys and values of a sound take tens of megabytes per row.
        """
        first, count = int(rows[0]), len(rows)
        follow = np.array_equal(rows, np.arange(first, first + count))
        of = slice(first, first + count) if follow else rows

        def taken(buffer: DeviceBuffer) -> DeviceBuffer:
            return DeviceBuffer(buffer.read()[of], buffer.device)

        return EncoderKV([taken(buffer) for buffer in self.buffers], taken(self.lengths), self.texts[rows])
