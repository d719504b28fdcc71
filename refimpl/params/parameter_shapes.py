"""The names, shapes and smoothing sites of a model's parameters, computed from its Config before any
weight is read.
"""

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
    """A mapping from each parameter's dotted name to its shape. The order is the order in which a forward
    pass reads the parameters.

    The mapping is computed once, as soon as a Config is known, and then passed on.
    """

    config: Config

    @cached_property
    def _shapes(self) -> Mapping[str, tuple[int, ...]]:
        return parameter_shapes(self.config)

    @property
    def numbers(self) -> int:
        """The model's parameter count: how many numbers all its parameters contain together."""
        return sum(map(math.prod, self._shapes.values()))

    @cached_property
    def smoothing_sites(self) -> tuple[SmoothingSite, ...]:
        """All activations of the model that can be smoothed exactly."""
        return tuple(smoothing_sites(self.config))

    @cached_property
    def post_norm_sites(self) -> tuple[SmoothingSite, ...]:
        """All activations of the model that only the products that read them can divide
        (`smoothing_sites.post_norm_sites`).
        """
        return tuple(post_norm_sites(self.config))

    def lazily(self, load: Callable[[str], Any]) -> Lazy:
        """Return a lazy tree of the parameters. `load` gets the dotted name of a parameter and returns the
        parameter.
        """
        return lazily(self._shapes, load)

    def __getitem__(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)
