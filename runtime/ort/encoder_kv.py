"""An encoder's keys and values for a decoder. They stay in the memory to which the encoder wrote them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .device_buffer import DeviceBuffer


@dataclass(frozen=True)
class EncoderKV:
    """An encoder's keys and values: the arrays that `encoder_kinds` names, layer by layer, and the lengths
    [B] of the texts. They never change, so caches may share their memory.

    `texts` [B] has the number of each row's text. Rows with the same number have equal content. So beams of
    one text, whose rows are reordered at each step, copy nothing.
    """

    buffers: list[DeviceBuffer]
    lengths: DeviceBuffer
    texts: np.ndarray

    @property
    def nbytes(self) -> int:
        return sum(buffer.nbytes for buffer in self.buffers)

    def selected(self, rows: np.ndarray) -> EncoderKV:
        """Return the given rows. On a CPU, rows that follow one another are a view of the memory: keys and
        values of a sound are tens of megabytes a row.
        """
        first, count = int(rows[0]), len(rows)
        follow = np.array_equal(rows, np.arange(first, first + count))
        of = slice(first, first + count) if follow else rows

        def taken(buffer: DeviceBuffer) -> DeviceBuffer:
            return DeviceBuffer(buffer.read()[of], buffer.device)

        return EncoderKV([taken(buffer) for buffer in self.buffers], taken(self.lengths), self.texts[rows])
