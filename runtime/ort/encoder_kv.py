"""An encoder's keys and values for a decoder. They stay in the memory to which the encoder wrote them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .device_buffer import DeviceBuffer


@dataclass
class EncoderKV:
    """An encoder's keys and values: the arrays that `encoder_kinds` names, layer by layer, and the lengths
    [B] of the texts.

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
        """Return new buffers with the given rows."""
        buffers = [DeviceBuffer(b.read()[rows], b.device) for b in self.buffers]
        lengths = DeviceBuffer(self.lengths.read()[rows], self.lengths.device)
        return EncoderKV(buffers, lengths, self.texts[rows])

    def permute(self, rows: np.ndarray) -> None:
        """Reorder the rows in place, without changing their number.

        Only rows whose text changes are copied.
        """
        texts = self.texts[rows]
        changed = np.flatnonzero(texts != self.texts)
        if not len(changed):
            return
        for buffer in (*self.buffers, self.lengths):
            array = buffer.read()
            array[changed] = array[rows[changed]]
            buffer.write(array)
        self.texts = texts
