"""Run decode steps of one token per row, with all inputs and outputs at fixed addresses on the device.

    host      tokens, past and the like ->                  -> best tokens, and logits if they are wanted
    device                                 step, step, ...

So only a few numbers are copied to a GPU and back, and the GPU can capture a step and replay it. A replay
launches all kernels at once, on the addresses of the captured step. A step writes its best tokens to the
memory from which the next step reads its tokens. So the host waits only once for several steps. On the
CPU, fixed addresses save time because no memory needs to be bound again. Binding takes longer than copying
the logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set

import numpy as np
import onnxruntime as ort

from ...refimpl.decoding.sampling import non_finite_error
from ..bundle.graph_io import row_length_names
from .device_buffer import Binding, DeviceBuffer, zeros

# How many steps are launched before the host waits. Each has places of its own, and so a capture of its own.
AHEAD = 4

# A capture takes two more runs, and stays in its session: ONNX Runtime 1.31 releases none on CUDA. So it is
# for buffers that are used for some steps, and a session makes only so many; other steps run uncaptured.
FIRST_CAPTURED, MOST_CAPTURES = 8, 256
NOT_CAPTURED = -1


def capture_options(number: int, *, wait: bool = True) -> ort.RunOptions:
    """Return the options of a run that ONNX Runtime captures as CUDA graph `number`, or replays if it was
    captured before.

    The number `NOT_CAPTURED` means that the run isn't captured. With `wait`, the run returns only after
    the device has finished.
    """
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(number))
    if not wait:
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return options


class DecodeSteps:
    """Several decode steps that run in a cycle on the buffers of one cache.

    The steps are captured on a GPU as long as `captures` yields a number for each. ONNX Runtime runs a
    step several times to capture it. The result is the same as after one run, because the step doesn't
    overwrite the tokens that it reads, and each run writes the same entries of the cache.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        bindings: Sequence[Binding],
        logits: DeviceBuffer,
        ports: Set[str],
        entries: Mapping[int | None, int],
        options: ort.RunOptions | None,
        captures: Iterator[int] | None,
    ) -> None:
        """Prepare the steps of a cycle.

        - `session`: the session of the decoder's graph.
        - `bindings`: one binding for each step of the cycle, to which the cache is already bound.
        - `logits`: memory [B, 1, N] for the logits of the last step.
        - `ports`: the names of the graph's inputs and outputs.
        - `entries`: a dict from each window to the number of tokens for which its layers have room.
        - `options`: the options of runs that aren't captured.
        - `captures`: the numbers that are left for captured steps; None if steps can't be captured.
        """
        self._session, self._bindings, self.logits = session, bindings, logits
        circle, batch, device = len(bindings), logits.shape[0], logits.device
        integer = np.dtype(np.int64)
        # Of each step of the circle; the host writes and reads those of several steps at once.
        self._tokens = zeros((circle, batch, 1), integer, device)
        self._past = zeros((circle, batch), integer, device)
        # How much of a row the layers hold, by window; None are those without.
        self._held: dict[int | None, DeviceBuffer] = {}
        constant = {"at": zeros((batch, 1), integer, device)}
        inputs = {"tokens": self._tokens, "past": self._past}
        if "lengths" in ports:
            constant["lengths"] = DeviceBuffer(np.ones(batch, np.int64), device)
        for window, room in entries.items():
            seqlens, total = row_length_names(window)
            if seqlens in ports:
                inputs[seqlens] = self._held[window] = zeros((circle, batch), np.dtype(np.int32), device)
                # The longest row decides only how work is split. A replay has the one of the capture, so it
                # is the longest that there can be. The operator reads it on the CPU.
                constant[total] = DeviceBuffer(np.array(room, np.int32), "cpu")
            elif window is not None:
                inputs[f"window_length.{window}"] = self._held[window] = zeros(
                    (circle, batch), integer, device
                )
        for i, binding in enumerate(bindings):
            io = binding.io
            for name, buffer in constant.items():
                io.bind_input(name, buffer.device, 0, buffer.dtype, buffer.shape, buffer.pointer)
            for name, buffer in inputs.items():
                io.bind_input(name, buffer.device, 0, buffer.dtype, buffer.shape[1:], buffer.address(i))
            io.bind_output("logits", device, 0, logits.dtype, logits.shape, logits.pointer)
            if "best" in ports:
                address = self._tokens.address((i + 1) % circle)
                io.bind_output("best", device, 0, integer, (batch, 1), address)
        self._constant = constant  # a binding knows only where it is
        self._options, self._captures, self._steps = options, captures, 0
        # Of captured steps: of one that the host waits for, and of one that it doesn't.
        self._captured: dict[int, tuple[ort.RunOptions, ort.RunOptions]] = {}
        self._written = 0, 0  # where the best tokens of the last run begin, and how many they are

    def run(
        self,
        tokens: np.ndarray,
        past: np.ndarray,
        window_lengths: dict[int, np.ndarray],
        first: int = 0,
        count: int = 1,
    ) -> None:
        """Run `count` steps, beginning with step `first` of the cycle.

        The first step reads tokens [B, 1] after `past` [B] earlier tokens. `window_lengths` gives the
        number of tokens [B] that the layers of each window hold. Each further step reads the best tokens
        of the step before it.
        """
        circle = len(self._bindings)
        # All is written before the first step, as the host doesn't know when a later one reads.
        after = 0 if count == 1 else (np.arange(circle)[:, None] - first) % circle
        self._tokens.fill(tokens)
        self._past.fill(past + after)
        for window, buffer in self._held.items():
            buffer.fill((past if window is None else window_lengths[window]) + after)
        for i in range(count):
            step = (first + i) % circle
            options = self._run_options(step, wait=i + 1 == count)
            self._session.run_with_iobinding(self._bindings[step].io, options)
            self._steps += 1
        self._written = first + 1, count

    def _run_options(self, step: int, *, wait: bool) -> ort.RunOptions | None:
        if step not in self._captured and self._captures is not None and self._steps >= FIRST_CAPTURED:
            number = next(self._captures, None)
            if number is None:
                self._captures = None
            else:
                self._captured[step] = capture_options(number), capture_options(number, wait=False)
        if step not in self._captured:
            return self._options
        waited, launched = self._captured[step]
        return waited if wait else launched

    def best(self) -> np.ndarray:
        """Return the best tokens [B, count] of the steps that the last `run` ran. Raises NumericError if a
        logit isn't finite.
        """
        begin, count = self._written
        written = (begin + np.arange(count)) % len(self._bindings)
        best = self._tokens.read()[written, :, 0].T.copy()
        if best.min() < 0:
            raise non_finite_error()
        return best
