"""What all checks share, and what a check is."""

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
    """The bundle, what it is compared with, and when time is up (`time.monotonic`).

    `advance` is told how much of a long check is done, and how much there is. `backends` are the outputs for
    the golden tokens, all at once, by what computed them, or why nothing could: checks that ran put
    them there.
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
        """Tell how much of a long check is done; True if time is up."""
        self.advance(done, total)
        return self.out_of_time()

    @cached_property
    def golden(self) -> Golden:
        """The golden inputs and outputs; BundleError if they can't be read."""
        return golden_outputs.load(self.bundle)

    @cached_property
    def engine(self) -> OrtEngine:
        """The bundle on ONNX Runtime; DeviceError if the device is missing."""
        from ...ort.engine import OrtEngine

        return OrtEngine(self.bundle, self.device, self.threads)


@dataclass(frozen=True)
class Check:
    """A check, what it is about in a few words, whether only a full run does it, the option that asks for it,
    and to which bundles it applies.

    `run` yields one row per figure. It looks at the clock itself where it takes long. It raises DeviceError
    where the device is missing, which leaves it unchecked, and another TfmError where the bundle fails.
    """

    run: Callable[[VerifyContext], Iterator[Row]]
    subject: str
    full: bool = False
    asked_by: str = "full=True"
    applies: Callable[[Bundle], bool] = lambda _: True
