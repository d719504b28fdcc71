"""LongT5's attention: T5's attention within a window, and attention to sums of blocks of the text (Guo et
al. 2022, LongT5, arXiv 2112.07916, §3.1).

A token sees the r tokens on each side of it ("local", §3.1.1). It may see farther tokens through
summaries. The text is cut into blocks of k tokens, and the vectors of each block are added and normalized.
All queries see these summaries as additional keys and values. Each layer computes the summaries from its
own input. A token's own softmax decides how much it takes from its neighbours and how much from the rest
("transient global", §3.1.2).

    radius 1, blocks of 3, a text of 8 tokens

                    tokens            summaries
        key         0 1 2 3 4 5 6 7   Σ012  Σ34567
        query 0     x x . . . . . .    x      x
        query 3     . . x x x . . .    x      x
        query 7     . . . . . . x x    x      x

    summary g = RMSNorm(Σ x_s over the tokens s of block g)

The last tokens, which don't fill a block, belong to the last full block; a text without a full block has
no summaries. The same maps make the keys and values of tokens and of summaries. Scores have no scale (as
in T5). A score has a bias that depends on its head and its distance, in the same buckets as in T5
(`ops.bias`). Between two tokens, the distance is counted in tokens. Between a token and a summary, it is
counted in blocks, with a separate table. A text of T tokens has T · (2 · r + 1 + T / k) scores, not T · T:
with r = 127 and k = 16, a tenth at 8,192 tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, NotRequired, Self, TypedDict

import numpy as np

from ..config import RelativeBias, SmoothingSite, TokenMixer
from ..config.bounds import need
from ..config.record import bounded
from .arrays import concatenate, join_last
from .attention import attend, heads
from .dispatch import op
from .linear import linear
from .mask import padding_mask
from .norm import rms_norm
from .quant import Blocks

if TYPE_CHECKING:
    from ..axes import Array, Float, Index


class LongT5Weights(TypedDict):
    """The parameters of LongT5's attention: the four maps and, if the layer has summaries, the weight of
    the summaries' norm.
    """

    wq: Float[Array, "D H*K"] | Blocks
    wk: Float[Array, "D H*K"] | Blocks
    wv: Float[Array, "D H*K"] | Blocks
    wo: Float[Array, "H*K D"] | Blocks
    global_norm: NotRequired[Float[Array, " D"]]


class DistanceBiases(NamedTuple):
    """The bias of each head for each distance (key minus query). `near` is for distances from −A to A in
    tokens, `far` for distances from −C to C in blocks.

    A is the radius. Distances beyond C blocks have the bias of distance C.
    """

    near: Float[Array, "H 2*A+1"]
    far: Float[Array, "H 2*C+1"] | None = None


class LongT5Attention(TokenMixer):
    """The settings of T5's attention within a window, and to summaries of the text's blocks
    (`ops.longt5`).

    A token sees the `radius` tokens on each side of it. With `global_block_size` it also sees a summary of
    each block of that many tokens. The summary is the sum of the block's vectors, normalized with a weight
    (`norm_eps`). `position` has the settings of both kinds of biases. All layers share the two tables of
    biases, and have the same radius and block size. Maps have no bias, and scores have no scale.
    """

    heads: int = bounded("heads")
    head_size: int = bounded("width")
    radius: int = bounded("context", "radius of the window")
    position: RelativeBias
    global_block_size: int | None = bounded("context", default=None)
    norm_eps: float = 1e-6

    weights = LongT5Weights
    title, place = "LongT5's attention", "encoder"
    choices: ClassVar = {"global_block_size": (1, 2, 3), "norm_eps": (1e-6, 0.1)}

    def check(self, at: str) -> None:
        super().check(at)
        need(self.position.shared, f"{at}all layers of LongT5's attention must share their biases")
        self.position.check(at, self.head_size)

    @classmethod
    def check_together(cls, name: str, mixers: Sequence[Self], width: int, vocabulary: int) -> None:
        sizes = {(mixer.radius, mixer.global_block_size) for mixer in mixers}
        need(
            len(sizes) <= 1,
            f"{name}: all layers must have one radius and one global_block_size, got {len(sizes)} kinds",
        )

    def sizes(self, width: int) -> Mapping[str, float]:
        return {"H": self.heads, "K": self.head_size}

    def leaves(self) -> Sequence[str]:
        return () if self.global_block_size is None else ("global_norm",)

    def tables(self, width: int) -> dict[str, tuple[int, ...]]:
        far = () if self.global_block_size is None else ("global_relative_bias",)
        return dict.fromkeys(("relative_bias", *far), (self.position.buckets, self.heads))

    def mix_whole(self, x: Array, lengths: Array, weights: Any, positions: Any, causal: bool) -> Array:
        return longt5_attention(x, lengths, weights, positions.distance_biases, settings=self)

    def readers(self) -> tuple[str, ...]:
        return "wq", "wk", "wv"

    @property
    def reads_more(self) -> bool:
        return self.global_block_size is not None

    def smoothing(self, *, read_later: bool) -> list[SmoothingSite]:
        return [SmoothingSite(("wv",), ("wo",), 1, self.head_size)]

    def describe(self) -> str:
        around = f"within {self.radius} tokens on each side"
        far = "" if self.global_block_size is None else f", and to sums of {self.global_block_size} tokens"
        return f"LongT5's attention, {self.heads} heads of {self.head_size}, {around}{far}"

    def describe_positions(self) -> str | None:
        return self.position.describe()

    def epsilons(self) -> dict[str, float]:
        return {"global_norm": self.norm_eps}

    @classmethod
    def drawn(cls, chosen: Mapping[str, Any], size: Mapping[str, int]) -> LongT5Attention:
        """Return settings that fit arrays drawn at random for a test of properties. The settings include
        summaries if their biases are given.
        """
        return cls(
            heads=size["H"],
            head_size=size["K"],
            radius=size["A"],
            position=RelativeBias(4, 3),
            global_block_size=None if chosen["far"] is None else chosen["global_block_size"],
            norm_eps=chosen["norm_eps"],
        )


@op
def longt5_attention(
    x: Float[Array, "B T D"],
    lengths: Index[Array, " B", "< T+1"],
    weights: LongT5Weights,
    biases: DistanceBiases,
    *,
    settings: LongT5Attention,
) -> Float[Array, "B T D"]:
    """Compute the sublayer of LongT5's attention: project to queries, keys and values, attend to near
    tokens and summaries, and project back.

    Conventions: as in `self_attention`, rows are padded on the right. No token sees padding, no summary
    includes padding, and outputs at padding are unspecified.

    transformers cuts a text into blocks of radius + 1 tokens, each with the keys of three blocks, and then
    hides keys that are farther than the radius. The window is the same, wherever these blocks begin. To
    find a token's summary block, transformers adds up 1/k in float32. If k isn't a power of two, this
    sometimes puts a token into a neighbouring block. Up to k = 30, this happens only for k = 25. Here
    token s is in block ⌊s/k⌋.
    """
    read = with_summaries(x, lengths, weights.get("global_norm"), settings=settings)
    q, k, v = (heads(read, weights[name], size=settings.head_size) for name in ("wq", "wk", "wv"))
    y = near_and_far((q, k, v), lengths, biases, x.shape[1], settings=settings)
    return linear(join_last(y), weights["wo"])


def with_summaries(x: Array, lengths: Array, norm: Array | None, *, settings: LongT5Attention) -> Array:
    """Return the tokens [B, T, D], followed by the summaries of their blocks."""
    if settings.global_block_size is None:
        return x
    assert norm is not None
    sums = sums_of_blocks(x, lengths, size=settings.global_block_size)
    return concatenate([x, rms_norm(sums, norm, eps=settings.norm_eps)], 1)


@op
def sums_of_blocks(x: Array, lengths: Array, *, size: int) -> Array:
    """Return the sums Σ x_s over the tokens s of each block, [B, G, D]. G is at least the number of blocks
    in the longest row.
    """
    at, full = np.arange(x.shape[1]), lengths[:, None] // size
    own = np.minimum(at // size, full - 1)
    inside = own[:, None] == np.arange(x.shape[1] // size)[:, None]
    return inside.astype(x.dtype) @ np.where(padding_mask(at, lengths)[:, :, None], x, 0)


@op
def near_and_far(
    projected: tuple[Array, Array, Array],
    lengths: Array,
    biases: DistanceBiases,
    t: int,
    *,
    settings: LongT5Attention,
) -> Array:
    """Return the heads' outputs [B, T, H, K]. The given queries, keys and values belong to the tokens
    first, and then to the summaries."""
    q, k, v = projected
    at, radius = np.arange(t), settings.radius
    apart = at - at[:, None]
    shape = len(q), settings.heads, t, t
    mask = padding_mask(at, lengths)[:, None] & (abs(apart) <= radius)
    bias = np.broadcast_to(biases.near[:, np.clip(apart, -radius, radius) + radius], shape)
    if (size := settings.global_block_size) is not None:
        assert biases.far is not None
        full, blocks = lengths[:, None, None] // size, np.arange(k.shape[1] - t)
        own = np.minimum(at[:, None] // size, full - 1)
        farthest = biases.far.shape[1] // 2
        steps = np.clip(blocks - own, -farthest, farthest) + farthest
        bias = np.concatenate([bias, biases.far[:, steps].swapaxes(0, 1)], axis=-1)
        mask = np.concatenate([mask, np.broadcast_to(blocks < full, steps.shape)], axis=-1)
    return attend(q[:, :t], k, v, mask, bias, scale=1.0)
