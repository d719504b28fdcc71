"""Random parameters of a Config, for tests, examples and training."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..config import Config
from .parameter_shapes import ParameterShapes
from .shapes import ADDED
from .tree import unflatten

NORMS = (".q_norm", ".k_norm")  # those that may have a row for each head
SCALES = (".k_scale", ".v_scale")  # of cached keys and values, one for each channel


def random_weights(config: Config, rng: np.random.Generator, dtype: Any = np.float32) -> dict[str, Any]:
    """Return random parameters of a realistic magnitude. No two parameters are equal.

    The weights of norms are near one, biases aren't zero, and scales are above zero.
    """

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        last = name.rsplit(".", 1)[-1]
        normal = rng.standard_normal(shape)
        if len(shape) == 1 or name.endswith(NORMS):
            return (0.2 * normal + (last in ("weight", "scalar") or name.endswith(NORMS))).astype(dtype)
        if name.endswith(SCALES):
            return ((1 + np.abs(normal)) / 32).astype(dtype)
        fan_in = shape[-1] if last in ("table", *ADDED) else shape[0]
        if last.endswith("kernel"):
            fan_in = math.prod(shape[1:])
        return (normal * fan_in**-0.5).astype(dtype)

    return unflatten({name: draw(name, shape) for name, shape in ParameterShapes(config).items()})
