"""Compute the attention weights of every head of a model, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import Config
from ..errors import ConfigError
from ..ops.attention import attention_weights
from ..ops.dispatch import body, use
from .numpy_engine import dtype_of
from .passes import Text, given, read

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray as Array

# Called with the index of a layer and its weights [H, T, T], query by key.
OnMap = Callable[[int, "Float[Array, 'H T T']"], None]


class _Enough(Exception):  # noqa: N818  (it is no error)
    """Ends a pass after the last requested attention map, so that later layers aren't computed."""


def attention_maps(
    config: Config,
    params: Mapping[str, Any],
    tokens: Int[Array, " T"],
    on_map: OnMap,
    *,
    layers: int | None = None,
) -> None:
    """Call `on_map` with each layer's attention weights, in order, for the tokens of one text.

    With `layers`, only this number of layers is computed. For a model with an encoder, the maps are the
    encoder's. Parameters are read when their layer is computed, so `params` may be lazy. Raises ConfigError
    if a layer has no attention.
    """
    if config.sound_shape is not None:
        raise ConfigError("attention weights need a model that reads text, but this model reads sounds")
    wanted = next(iter(config.stacks.values())).layers[:layers]
    for i, layer in enumerate(wanted):
        if not layer.attention.has_map:
            got = type(layer.attention).__name__
            raise ConfigError(f"attention weights need attention in each layer, but layer {i} has {got}")
    done = 0

    def noted(*arguments: Any, **settings: Any) -> Array:
        nonlocal done
        weights = body(attention_weights)(*arguments, **settings)
        with use({}):
            on_map(done, weights[0])
        done += 1
        if done == len(wanted):
            raise _Enough
        return weights

    text = Text(tokens[None], np.array([len(tokens)]))
    with use({"attention_weights": noted}), suppress(_Enough):
        read(given(text, dtype_of(params), config=config), params, config=config)
