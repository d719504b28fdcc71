"""Define the context that all checks share, and the record that describes a check."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from ....refimpl.checkpoint.protocol import ExportSource
from ...bundle.bundle import Bundle
from .. import golden as golden_outputs
from ..golden import Golden
from ..report import Row

if TYPE_CHECKING:
    from numpy import ndarray as Array

    from ...ort.engine import OrtEngine


@dataclass
class VerifyContext:
    """The data that all checks share: the bundle, its source, a text, the device, and the time limit `until`
    (of `time.monotonic`).

    `advance` is called with the finished amount of a long check and its total amount. `backends` maps each
    backend to its outputs for all golden tokens at once, or to the reason why the backend couldn't run. The
    check that runs a backend adds the backend's entry.
    """

    bundle: Bundle
    source: ExportSource | None
    text: str | None
    until: float
    device: str
    threads: int | None
    advance: Callable[[int, int], None] = lambda done, total: None
    backends: dict[str, Array | str] = field(default_factory=dict)

    def out_of_time(self) -> bool:
        return time.monotonic() > self.until

    def is_over(self, done: int, total: int) -> bool:
        """Report how much of a long check is done. Return True if the time limit has been reached."""
        self.advance(done, total)
        return self.out_of_time()

    @cached_property
    def golden(self) -> Golden:
        """The golden inputs and outputs. Raises BundleError if they can't be read."""
        return golden_outputs.load(self.bundle)

    @cached_property
    def engine(self) -> OrtEngine:
        """The engine that runs the bundle on ONNX Runtime. Raises DeviceError if the device is missing."""
        from ...ort.engine import OrtEngine

        return OrtEngine(self.bundle, self.device, self.threads)


@dataclass(frozen=True)
class Check:
    """A check of `verify`.

    - subject: a description in a few words.
    - full: whether only a full run does the check.
    - asked_by: the option that requests the check.
    - applies: returns whether the check applies to a bundle.

    `run` yields one row per figure. A long check watches the time limit itself. `run` raises DeviceError if
    the device is missing; then the check counts as not done. `run` raises another TfmError if the bundle
    fails.
    """

    run: Callable[[VerifyContext], Iterator[Row]]
    subject: str
    full: bool = False
    asked_by: str = "full=True"
    applies: Callable[[Bundle], bool] = lambda _: True
