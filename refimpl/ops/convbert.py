"""ConvBERT's attention: half of the heads attend, and half mix neighbouring tokens with a kernel made from
the token itself (Jiang et al. 2020, ConvBERT, arXiv 2008.02496, §3).

Attention often only finds neighbours. So half of its work is done by a convolution over the A tokens on
each side. Each head makes the convolution's kernel from the token and its surroundings ("span-based
dynamic convolution", §3.2):

    surroundings   s[t] = Σ_j c[j] ⊙ x[t − A + j], mapped to the heads' width
    kernel         p[t, h] = softmax over j of a map of (s[t] ⊙ q[t]), 2A + 1 numbers for each head
    output         y[t, h] = Σ_j p[t, h, j] · n[t − A + j, h]

q are the queries of the heads that attend, and n are the vectors that a separate map makes of the tokens.
Before and after a text, x and n are zero, but these positions keep their share of the softmax:

    tokens      x0   x1   x2   x3  | padding          A = 1
    y0      p0 · 0  p1   p2                           p0 + p1 + p2 = 1
    y3                    p0   p1    p2 · 0
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypedDict

from ..config import TokenMixer
from ..config.record import bounded
from .arrays import concatenate, indices, join_last, padded, repeated, split_last, where
from .attention import attend, softmax
from .dispatch import op
from .linear import linear
from .mask import padding_mask
from .quant import Blocks
from .short_conv import causal_conv

if TYPE_CHECKING:
    from ..axes import Array, Float, Index


class ConvBertWeights(TypedDict):
    """The parameters of ConvBERT's attention.

    They are the maps to queries, keys and values, the convolution of a token's surroundings and its map,
    the map to kernels, the map of neighbours, and the output projection of all heads.
    """

    wq: Float[Array, "D H*K"] | Blocks
    wk: Float[Array, "D H*K"] | Blocks
    wv: Float[Array, "D H*K"] | Blocks
    conv: Float[Array, "2*A+1 D"]
    w_conv: Float[Array, "D H*K"] | Blocks
    w_kernel: Float[Array, "H*K 2*A*H+H"] | Blocks
    w_near: Float[Array, "D H*K"] | Blocks
    wo: Float[Array, "2*H*K D"] | Blocks
    bq: Float[Array, " H*K"]
    bk: Float[Array, " H*K"]
    bv: Float[Array, " H*K"]
    b_conv: Float[Array, " H*K"]
    b_kernel: Float[Array, " 2*A*H+H"]
    b_near: Float[Array, " H*K"]
    bo: Float[Array, " D"]


class ConvBertAttention(TokenMixer):
    """The settings of ConvBERT's attention (`ops.convbert`). `heads` heads attend, and the same number of
    heads mix each token with its `neighbours` on each side.
    """

    heads: int = bounded("heads")
    head_size: int = bounded("width")
    neighbours: int = bounded("kernel", "neighbours of the convolution")

    weights = ConvBertWeights
    title, place, has_map = "ConvBERT's attention", "encoder", True

    def sizes(self, width: int) -> Mapping[str, float]:
        return {"H": self.heads, "K": self.head_size, "A": self.neighbours}

    def mix_whole(self, x: Array, lengths: Array, weights: Any, positions: Any, causal: bool) -> Array:
        return convbert_attention(x, lengths, weights, settings=self)

    def describe(self) -> str:
        size = f"heads of {self.head_size}"
        return f"{self.heads} {size}, and {self.heads} over {self.neighbours} neighbours on each side"

    def integers(self) -> Iterator[int]:
        yield from range(2 * self.neighbours + 1)  # where the parts of a kernel begin

    def numbers(self) -> Iterator[float]:
        yield self.head_size**-0.5

    @classmethod
    def drawn(cls, chosen: Mapping[str, Any], size: Mapping[str, int]) -> ConvBertAttention:
        return cls(heads=size["H"], head_size=size["K"], neighbours=size["A"])


@op
def convbert_attention(
    x: Float[Array, "B T D"],
    lengths: Index[Array, " B", "< T+1"],
    weights: ConvBertWeights,
    *,
    settings: ConvBertAttention,
) -> Float[Array, "B T D"]:
    """Compute ConvBERT's sublayer: attention, beside a convolution with a kernel that depends on the
    token, and then an output projection.

    Conventions: as in `self_attention`, rows are padded on the right, no token reads padding, and outputs
    at padding are unspecified. In transformers, the convolutions read a batch's padding.
    """
    q, k, v = (linear(x, weights[f"w{n}"], weights[f"b{n}"]) for n in "qkv")
    return linear(
        near_and_far(x, lengths, (q, k, v), weights, settings=settings), weights["wo"], weights["bo"]
    )


def near_and_far(
    x: Array,
    lengths: Array,
    far: tuple[Array, Array, Array],
    weights: ConvBertWeights,
    *,
    settings: ConvBertAttention,
) -> Array:
    """Return the outputs of both kinds of heads side by side, [B, T, 2 * H * K]: the heads that attend and
    the heads that mix neighbours.

    `far` are the queries, keys and values of the heads that attend, each [B, T, H * K].
    """
    t, size, around = x.shape[1], settings.head_size, settings.neighbours
    q, k, v = far
    real = padding_mask(indices(t, x), lengths)
    seen = repeated(real[:, None], t, axis=1)
    y = attend(split_last(q, size), split_last(k, size), split_last(v, size), seen)

    there = real[:, :, None]
    surroundings = causal_conv(padded(where(there, x, 0), 0, around), weights["conv"])[:, around:]
    mixed = linear(surroundings, weights["w_conv"], weights["b_conv"]) * q
    kernels = linear(mixed, weights["w_kernel"], weights["b_kernel"])
    shares = softmax(split_last(kernels, 2 * around + 1))
    near = padded(where(there, linear(x, weights["w_near"], weights["b_near"]), 0), around, around)
    z = split_last(near[:, :t], size) * shares[..., :1]
    for j in range(1, 2 * around + 1):
        z = z + split_last(near[:, j : j + t], size) * shares[..., j : j + 1]
    return join_last(concatenate([y, z], 2))
