"""What the rungs share."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property

from ....refimpl.checkpoint.open import Checkpoint
from ....refimpl.engine.protocol import Engine
from ...bundle.bundle import Bundle
from .. import golden as goldens
from ..golden import Golden


@dataclass
class VerifyContext:
    """The bundle, what it is compared with, and how much time is left."""

    bundle: Bundle
    source: Checkpoint | None
    text: str | None
    until: float
    device: str
    threads: int | None

    def late(self) -> bool:
        return time.monotonic() > self.until

    @cached_property
    def golden(self) -> Golden:
        return goldens.load(self.bundle.path, self.bundle.config)

    @cached_property
    def engine(self) -> Engine:
        from ...ort.engine import OrtEngine

        return OrtEngine(self.bundle, self.device, self.threads)
