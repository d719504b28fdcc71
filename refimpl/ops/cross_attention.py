"""Cross-attention: the tokens of one text attend to another text, which an encoder has read."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, NotRequired, TypedDict

from ..config import Attention
from .arrays import indices, join_last, repeated
from .attention import attend, heads, split_heads
from .dispatch import op
from .linear import linear
from .mask import padding_mask
from .quant import Blocks

if TYPE_CHECKING:
    from ..axes import Array, Float, Index


class CrossKeyWeights(TypedDict):
    """The parameters of the maps from the encoder's output to keys and values."""

    wk: Float[Array, "D G*K"] | Blocks
    wv: Float[Array, "D G*K"] | Blocks
    bk: NotRequired[Float[Array, " G*K"]]
    bv: NotRequired[Float[Array, " G*K"]]
    k_norm: NotRequired[Float[Array, " K"] | Float[Array, "G K"] | Float[Array, " G*K"]]


class CrossAttentionWeights(TypedDict):
    """The parameters of the map from tokens to queries, and of the map from the heads' outputs back to the
    model's width.
    """

    wq: Float[Array, "D H*K"] | Blocks
    wo: Float[Array, "H*K D"] | Blocks
    bq: NotRequired[Float[Array, " H*K"]]
    bo: NotRequired[Float[Array, " D"]]


class EncoderKV(NamedTuple):
    """The keys and values of an encoder's output, in the layout of a cache. Row b has `lengths[b]` real
    tokens.
    """

    keys: Float[Array, "B G S K"]
    values: Float[Array, "B G S K"]
    lengths: Index[Array, " B", "< S+1"]

    def select(self, rows: Array) -> EncoderKV:
        """Return the keys and values of the batch rows with the given numbers, in the given order."""
        return EncoderKV(self.keys[rows], self.values[rows], self.lengths[rows])


@op
def cross_keys(
    states: Float[Array, "B S D"], weights: CrossKeyWeights, *, settings: Attention
) -> tuple[Float[Array, "B G S K"], Float[Array, "B G S K"]]:
    """Return the keys and values of an encoder's output. They are computed once per text; then each step
    of the decoder reads them.
    """
    k = linear(states, weights["wk"], weights.get("bk"))
    k = split_heads(k, weights.get("k_norm"), settings=settings)
    v = heads(states, weights["wv"], weights.get("bv"), size=settings.head_size)
    return k.swapaxes(1, 2), v.swapaxes(1, 2)


@op
def cross_attention(
    x: Float[Array, "B T D"],
    encoder_kv: EncoderKV,
    weights: CrossAttentionWeights,
    *,
    settings: Attention,
) -> Float[Array, "B T D"]:
    """Compute attention to an encoder's text: each token sees the first `lengths[b]` keys (Vaswani et al.
    2017, §3.2.3).

    Conventions: there are neither positions nor a causal mask, since the encoder's text is known as a
    whole.
    """
    q = heads(x, weights["wq"], weights.get("bq"), size=settings.head_size)
    seen = padding_mask(indices(encoder_kv.keys.shape[2], x), encoder_kv.lengths)
    keys, values = encoder_kv.keys.swapaxes(1, 2), encoder_kv.values.swapaxes(1, 2)
    mask = repeated(seen[:, None], x.shape[1], axis=1)
    y = attend(q, keys, values, mask, **settings.scoring)
    return linear(join_last(y), weights["wo"], weights.get("bo"))
