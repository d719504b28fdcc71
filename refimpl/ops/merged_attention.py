"""Merged attention: the tokens of a text attend to each other and to an encoder's text in one softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..config import Attention
from .arrays import as_type, concatenate, following, indices, join_last, repeated
from .attention import AttentionWeights, attend, from_heads, positioned, project, rotated_values, written
from .cache import KVCache
from .dispatch import observe, op
from .linear import linear
from .mask import padding_mask, seen_by
from .position import Rotary

if TYPE_CHECKING:
    from ..axes import Array, Float, Index


class EncoderText(NamedTuple):
    """The keys and values of an encoder's text, like `EncoderKV`. The fields have other names than the
    fields of the cache beside it.
    """

    encoder_keys: Float[Array, "B G S K"]
    encoder_values: Float[Array, "B G S K"]
    lengths: Index[Array, " B", "< S+1"]


@op
def merged_attention(
    x: Float[Array, "B T D"],
    cache: KVCache,
    past: Index[Array, " B", "< O+1"],
    encoder_text: EncoderText,
    weights: AttentionWeights,
    rotary: Rotary | None = None,
    *,
    settings: Attention,
) -> tuple[Float[Array, "B T D"], KVCache]:
    """Compute attention to a text and to an encoder's text in one softmax: y_t = Σ_s softmax_s(scale · q_t
    · [k; k_encoder]_s) · [v; v_encoder]_s · wo (T5Gemma 2, Google 2025, arXiv 2512.14856).

    So the layer needs no separate cross-attention. The same scores decide how much a token reads of either
    text:

        keys         own, up to the token and in its window   encoder's, the first `lengths[b]`
        positions    rotated                                  none: as if each were at position 0
        stored       in the cache                             as `cross_keys` made them

    Conventions: `cache`, `past`, `rotary` and the new cache have the same meaning as in `attention`.
    """
    at = following(past, x.shape[1])
    q, k, v = project(x, weights, settings=settings)
    q, k, rotary = positioned(q, k, at, weights, rotary, settings=settings)
    q, cache = written(q, k, v, cache, past, rotary, settings=settings)
    other_keys, other_values, lengths = encoder_text
    seen = padding_mask(indices(other_keys.shape[2], at), lengths)
    own = seen_by(at, indices(cache.capacity, at), settings=settings, causal=True)
    mask = concatenate([own, repeated(seen[:, None], x.shape[1], axis=1)], axis=2)
    both = (cache.keys, other_keys), (cache.values, rotated_values(other_values, settings=settings))
    keys, values = (concatenate([as_type(a, q.dtype) for a in pair], axis=2).swapaxes(1, 2) for pair in both)
    y = attend(q, keys, values, mask, None, weights.get("sink_logits"), **settings.scoring)
    y = join_last(rotated_values(y, settings=settings))
    y = observe("attention, heads", from_heads(y, x, weights, settings=settings))
    return linear(y, weights["wo"], weights.get("bo")), cache
