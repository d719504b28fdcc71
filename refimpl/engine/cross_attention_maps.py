"""Compute the weights with which chosen heads of a decoder attend to the encoder's text or sound."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from ..config import Config
from ..ops.arrays import concatenate
from ..ops.attention import attention_weights, heads
from ..ops.cross_attention import CrossAttentionWeights, EncoderKV, cross_attention
from ..ops.dispatch import body, in_use, use
from ..ops.model import hidden

Head = tuple[int, int]  # a layer of a decoder, and a head in it


class _Enough(Exception):  # noqa: N818  (it is no error)
    """Ends a pass after the last requested layer, so that later layers aren't computed."""


def cross_attention_maps(chosen: Sequence[Head], *inputs: Any, config: Config) -> Any:
    """Return the cross-attention weights [H, T, S] of the chosen heads for all tokens [1, T] of one text.

    `inputs` are the arguments of `ops.model.model`. Layers after the last chosen one aren't computed.
    """
    tokens, past, _, rotary, cache, params, encoder_kv = inputs
    found: dict[Head, Any] = {}
    layer, last = 0, max(layer for layer, _ in chosen)

    def noted(x: Any, encoder_kv: EncoderKV, weights: CrossAttentionWeights, *, settings: Any) -> Any:
        nonlocal layer
        if wanted := [head for of, head in chosen if of == layer]:
            q = heads(x, weights["wq"], weights.get("bq"), size=settings.head_size)
            seen = attention_weights(q, encoder_kv.keys.swapaxes(1, 2), **settings.scoring)[0]
            found.update({(layer, head): seen[head] for head in wanted})
        if layer == last:
            raise _Enough
        layer += 1
        return body(cross_attention)(x, encoder_kv, weights, settings=settings)

    with use({**in_use(), "cross_attention": noted}), suppress(_Enough):
        hidden(tokens, past, None, rotary, cache, params, encoder_kv, config=config)
    return concatenate([found[head][None] for head in chosen], axis=0)
