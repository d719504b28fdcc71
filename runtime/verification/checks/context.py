"""What all checks share, and what a check is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ....refimpl.checkpoint.protocol import WeightSource
from ...bundle.bundle import Bundle
from .. import golden as golden_outputs
from ..golden import Golden
from ..report import Row

if TYPE_CHECKING:
    from ...ort.engine import OrtEngine


@dataclass
class VerifyContext:
    """The bundle, what it is compared with, and when time is up (`time.monotonic`)."""

    bundle: Bundle
    source: WeightSource | None
    text: str | None
    until: float
    device: str
    threads: int | None

    def out_of_time(self) -> bool:
        return time.monotonic() > self.until

    @cached_property
    def golden(self) -> Golden:
        """The golden inputs and outputs; BundleError if they can't be read."""
        return golden_outputs.load(self.bundle.path, self.bundle.config)

    @cached_property
    def engine(self) -> OrtEngine:
        """The bundle on ONNX Runtime; DeviceError if the device is missing."""
        from ...ort.engine import OrtEngine

        return OrtEngine(self.bundle, self.device, self.threads)


# A check yields one row per figure, and nothing if it doesn't apply to the bundle. It looks at the clock
# itself where it takes long. It raises DeviceError where the device is missing, which leaves it unchecked,
# and another TfmError where the bundle fails.
Check = Callable[[VerifyContext], Iterator[Row]]
