"""A step of one token a row, with all inputs and outputs at fixed places on the device.

    host      tokens, past and the like ->          -> best, and logits where they are wanted
    device                               the graph

So nothing but a few numbers crosses to a GPU and back, and the step can be captured there and replayed: a
replay launches all kernels at once, on the places that the capture saw. On the CPU it saves time that nothing
is bound anew: that takes longer than to copy the logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set

import numpy as np
import onnxruntime as ort

from ...refimpl.decoding.sampling import non_finite_error
from ..bundle.graph_io import row_length_names
from .device_buffer import Binding, DeviceBuffer, zeros

# A capture takes two more runs, and stays in its session: ONNX Runtime 1.31 releases none on CUDA. So it is
# for buffers that are used for some steps, and a session makes only so many; other steps run uncaptured.
FIRST_CAPTURED, MOST_CAPTURES = 8, 256
NOT_CAPTURED = -1


def capture_options(number: int) -> ort.RunOptions:
    """Options of a run that is captured under a number, and replayed from then on, or `NOT_CAPTURED`."""
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(number))
    return options


class DecodeStep:
    """The step on one cache's buffers; with numbers for `captures` left it is captured.

    ONNX Runtime runs a step several times to capture it. That is the same as once: best tokens aren't written
    where the step reads its own, and it writes the cache at the same places.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        binding: Binding,
        logits: DeviceBuffer,
        ports: Set[str],
        entries: Mapping[int | None, int],
        options: ort.RunOptions | None,
        captures: Iterator[int] | None,
    ) -> None:
        """`binding` has the cache bound, whose layers have room for `entries` by window; `logits` [B, 1, N]
        are to be written; `ports` are the names of the graph's; `options` are those of uncaptured runs."""
        self._session, self._binding, self.logits = session, binding, logits
        batch, device, integer = logits.shape[0], logits.device, np.dtype(np.int64)
        self._tokens, self._past = zeros((batch, 1), integer, device), zeros((batch,), integer, device)
        self._best = zeros((batch, 1), integer, device)
        # How much of a row the layers hold, by window; None are those without.
        self._held: dict[int | None, DeviceBuffer] = {}
        constant = {"at": zeros((batch, 1), integer, device)}
        inputs = {"tokens": self._tokens, "past": self._past}
        if "lengths" in ports:
            constant["lengths"] = DeviceBuffer(np.ones(batch, np.int64), device)
        for window, room in entries.items():
            seqlens, total = row_length_names(window)
            if seqlens in ports:
                inputs[seqlens] = self._held[window] = zeros((batch,), np.dtype(np.int32), device)
                # The longest row decides only how work is split. A replay has the one of the capture, so it
                # is the longest that there can be. The operator reads it on the CPU.
                constant[total] = DeviceBuffer(np.array(room, np.int32), "cpu")
            elif window is not None:
                inputs[f"window_length.{window}"] = self._held[window] = zeros((batch,), integer, device)
        io = self._binding.io
        for name, buffer in (inputs | constant).items():
            io.bind_input(name, buffer.device, 0, buffer.dtype, buffer.shape, buffer.pointer)
        for name, buffer in (("logits", self.logits), ("best", self._best)):
            if name in ports:
                io.bind_output(name, buffer.device, 0, buffer.dtype, buffer.shape, buffer.pointer)
        self._constant = constant  # the binding knows only where it is
        self._options, self._captures, self._steps = options, captures, 0

    def run(self, tokens: np.ndarray, past: np.ndarray, window_lengths: dict[int, np.ndarray]) -> None:
        """Read tokens [B, 1] after `past` [B] others, of which layers with a window hold `window_lengths`."""
        self._tokens.fill(tokens)
        self._past.fill(past)
        for window, buffer in self._held.items():
            buffer.fill(past if window is None else window_lengths[window])
        if self._steps == FIRST_CAPTURED and self._captures is not None:
            self._options = capture_options(next(self._captures, NOT_CAPTURED))
        self._session.run_with_iobinding(self._binding.io, self._options)
        self._steps += 1

    def best(self) -> np.ndarray:
        """The best token [B, 1] of each row; NumericError where a logit isn't finite."""
        best = self._best.read().copy()
        if best.min() < 0:
            raise non_finite_error()
        return best
