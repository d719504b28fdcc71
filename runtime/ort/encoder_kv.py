"""What a decoder reads of the text that an encoder has read; it stays where the encoder's run wrote it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .device_buffer import Buffer


@dataclass
class Memory:
    """What a decoder reads of an encoder's texts: keys and values [B, G, S, K] a layer, lengths [B].

    `texts` [B] numbers the texts: rows of one number hold the same, so that beams of one text, which
    change places at each step, copy nothing.
    """

    buffers: list[Buffer]
    lengths: Buffer
    texts: np.ndarray

    def moved(self, rows: np.ndarray) -> Memory:
        """New buffers that hold the named rows."""
        made = [Buffer(b.read()[rows], b.device) for b in self.buffers]
        return Memory(made, Buffer(self.lengths.read()[rows], self.lengths.device), self.texts[rows])

    def permuted(self, rows: np.ndarray) -> None:
        """As many rows as before, in place: only rows that get another text are copied."""
        texts = self.texts[rows]
        changed = np.flatnonzero(texts != self.texts)
        if not len(changed):
            return
        for buffer in (*self.buffers, self.lengths):
            array = buffer.read()
            array[changed] = array[rows[changed]]
            buffer.write(array)
        self.texts = texts
