"""The parameters of a model before any weight is read: their names, shapes and smoothing sites."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..config import Config, SmoothingSite
from .lazy import Lazy, lazily
from .shapes import parameter_shapes
from .smoothing_sites import post_norm_sites, smoothing_sites


@dataclass(frozen=True)
class ParameterShapes(Mapping[str, tuple[int, ...]]):
    """A mapping from dotted parameter name to shape, in the order in which a forward pass reads the
    parameters.

    This mapping is computed once, where a Config first becomes known, and then passed on.
    """

    config: Config

    @cached_property
    def _shapes(self) -> Mapping[str, tuple[int, ...]]:
        return parameter_shapes(self.config)

    @property
    def numbers(self) -> int:
        """The model's number of parameters."""
        return sum(map(math.prod, self._shapes.values()))

    @cached_property
    def smoothing_sites(self) -> tuple[SmoothingSite, ...]:
        """All activations that can be smoothed exactly."""
        return tuple(smoothing_sites(self.config))

    @cached_property
    def post_norm_sites(self) -> tuple[SmoothingSite, ...]:
        """All activations that can be divided only by the products that read them."""
        return tuple(post_norm_sites(self.config))

    def lazily(self, load: Callable[[str], Any]) -> Lazy:
        """Return the tree of parameters; `load` returns each one by its name when it is read."""
        return lazily(self._shapes, load)

    def __getitem__(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)
