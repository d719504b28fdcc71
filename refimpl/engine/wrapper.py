"""The base class of engines that wrap another engine and extend its `step`."""

from __future__ import annotations

from typing import Generic, TypeVar

import numpy as np

from ..config import Config
from .protocol import Cache, Engine

E = TypeVar("E", bound=Engine)


class EngineWrapper(Generic[E]):
    """An engine that forwards every call to another engine, except `step`.

    A subclass defines `step`, which calls the other engine's `step`.
    """

    def __init__(self, engine: E) -> None:
        self.engine = engine

    @property
    def config(self) -> Config:
        return self.engine.config

    def start(
        self,
        batch: int = 1,
        encoder_ids: np.ndarray | None = None,
        encoder_lengths: np.ndarray | None = None,
    ) -> Cache:
        return self.engine.start(batch, encoder_ids, encoder_lengths)

    def predict(
        self, ids: np.ndarray, lengths: np.ndarray | None = None, token_types: np.ndarray | None = None
    ) -> np.ndarray:
        return self.engine.predict(ids, lengths, token_types)
