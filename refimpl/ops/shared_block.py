"""Zamba 2's hybrid layer: a transformer block in front of Mamba 2. Several layers share the parameters of
the block (Glorioso et al. 2024, "The Zamba2 Suite", arXiv 2411.15242, §2, figure 2).

Attention finds what a state has forgotten, but needs many parameters and a large cache. So few layers have
attention, and the parameters of these layers are the same. The block reads the layer's input x beside e,
the input of the first layer, because e still contains the tokens from which x was made:

    x ──┬───────────────────────────────────────────────────────────────┬─────────────────────────── + ── y
        ├─ [x, e] ── norm ── attention ── norm ── mlp ── w_shared ── t ── + ── norm ── Mamba 2 ──────┘
    e ──┘

The block has no residual sums inside. In the checkpoint, each layer adds to the shared maps its own
products of two narrow matrices (LoRA, Hu et al. 2021). Here these products are already added, so each
layer has parameters of its own. A layer stores keys, values and the state of Mamba 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..config import Attention, Gated, Position, RMSNorm, Rope, SmoothingSite, TokenMixer
from ..config.bounds import need
from .arrays import concatenate
from .attention import attention
from .cache_kind import CacheKind
from .dispatch import op
from .linear import linear
from .mamba2 import HybridCache, HybridStates, Mamba2, Mamba2Weights, mamba2
from .mlp import GatedMlpWeights, gated_mlp
from .norm import rms_norm
from .quant import Blocks

if TYPE_CHECKING:
    from typing import Any as Array

    from jaxtyping import Float

    from .position import Rotary

__all__ = ["SharedBlock", "SharedBlockWeights", "shared_block"]


class SharedBlockWeights(Mamba2Weights):
    """The parameters of Zamba 2's hybrid layer: the parameters of Mamba 2, and of a block with X heads of
    Q elements and I heads of keys and values in front of it.

    `w_heads` is the output projection of attention.
    """

    attention_norm: Float[Array, " 2*D"]
    wq: Float[Array, "2*D X*Q"] | Blocks
    wk: Float[Array, "2*D I*Q"] | Blocks
    wv: Float[Array, "2*D I*Q"] | Blocks
    w_heads: Float[Array, "X*Q D"] | Blocks
    mlp_norm: Float[Array, " D"]
    mlp: GatedMlpWeights
    w_shared: Float[Array, "D D"] | Blocks
    mamba_norm: Float[Array, " D"]


class SharedBlock(TokenMixer):
    """The settings of Zamba 2's hybrid layer (`ops.shared_block`): attention over [x, e], an mlp, and
    Mamba 2.

    Each of the three parts begins with an RMSNorm, its `pre`. The attention has no biases, gates or other
    norms.
    """

    attention: Attention
    mlp: Gated
    mamba: Mamba2

    weights = SharedBlockWeights
    title, place, keeps, in_parts, has_map = "a shared block", "decoder", "state", True, True

    def check(self, at: str) -> None:
        super().check(at)
        parts = {"attention": self.attention, "mlp": self.mlp, "mamba": self.mamba}
        for name, part in parts.items():
            alone = isinstance(part.pre, RMSNorm) and len(part.placed_norms) == 1
            need(alone, f"{at}{name} of a shared block must have an RMSNorm before {name}, and no other norm")
        self.attention.check(f"{at}attention of a shared block: ")
        self.mlp.check(f"{at}mlp of a shared block: ", parallel=False)
        self.mamba.check(f"{at}Mamba 2 of a shared block: ")
        rotary = self.position is None or isinstance(self.position, Rope)
        need(rotary, f"{at}positions of a shared block must be rotary, got {self.position}")
        mlp = self.mlp
        plain = (mlp.gate_scale, mlp.scale, mlp.sparsity, mlp.down_norm) == (None,) * 4
        need(plain, f"{at}mlp of a shared block can't have scales, sparsity or a norm inside, got {mlp}")
        own = list(self.attention.leaves())
        need(
            own == ["wk", "wv"],
            f"{at}attention of a shared block must have only the weights wk and wv of its own, got {own}",
        )

    def sizes(self, width: int) -> Mapping[str, float]:
        a = self.attention
        return {**self.mamba.sizes(width), "X": a.heads, "I": a.kv_heads, "Q": a.head_size}

    def leaves(self) -> Sequence[str]:
        return self.mamba.leaves()

    @property
    def heads(self) -> int:
        """The number of heads of the attention."""
        return self.attention.heads

    @property
    def position(self) -> Position | None:
        """The kind of positions that the attention uses."""
        return self.attention.position

    @property
    def softmax_attention(self) -> Attention:
        return self.attention

    @property
    def inner_mlp(self) -> Gated:
        return self.mlp

    def cache_kind_beside(self, attention: CacheKind) -> HybridStates:
        return self.mamba.cache_kind_beside(attention)

    def mix(
        self, x: Array, cache: Any, past: Array, weights: Any, positions: Any, chosen: Array | None
    ) -> tuple[Array, HybridCache, Array | None]:
        rotary = positions.angles(self.position)
        y = shared_block(x, cache, past, weights, positions.embedding, rotary, settings=self)
        return *y, chosen

    def smoothing(self, *, read_later: bool) -> list[SmoothingSite]:
        of_heads = [
            site._replace(consumers=("w_heads",)) for site in self.attention.smoothing(read_later=False)
        ]
        of_mlp = [
            SmoothingSite(tuple(f"mlp.{leaf}" for leaf in made), tuple(f"mlp.{leaf}" for leaf in read))
            for made, read, *_ in self.mlp.smoothing()
        ]
        return [
            SmoothingSite(("attention_norm",), self.attention.readers()),
            *of_heads,
            SmoothingSite(("mlp_norm",), ("mlp.gate", "mlp.up")),
            *of_mlp,
            SmoothingSite(("mamba_norm",), self.mamba.readers()),
            *self.mamba.smoothing(read_later=False),
        ]

    def group_query_limit(self) -> str | None:
        return self.attention.group_query_limit()

    def describe(self) -> str:
        return (
            f"a shared block ({self.attention.describe()}, {self.mlp.describe()}) and {self.mamba.describe()}"
        )

    def describe_positions(self) -> str | None:
        return self.attention.describe_positions()

    def epsilons(self) -> dict[str, float]:
        parts = {"attention_norm": self.attention, "mlp_norm": self.mlp, "mamba_norm": self.mamba}
        norms = {name: part.pre.eps for name, part in parts.items() if isinstance(part.pre, RMSNorm)}
        return norms | self.mamba.epsilons()

    def plain_numbers(self) -> int:
        return self.attention.plain_numbers()


@op
def shared_block(
    x: Array,
    cache: HybridCache,
    past: Array,
    weights: SharedBlockWeights,
    embedding: Array,
    rotary: Rotary | None = None,
    *,
    settings: SharedBlock,
) -> tuple[Array, HybridCache]:
    """Compute Zamba 2's hybrid layer for x [B, T, D], without adding its output to x: attention and an mlp
    over x and `embedding`, then Mamba 2 over x plus the mlp's output. Returns the output [B, T, D] and the
    new cache.

    `embedding` [B, T, D] are the vectors e of the same tokens. Conventions: as in `attention` and
    `mamba2`.
    """
    norms, parts = settings.epsilons(), dict[str, Any](weights)
    read = rms_norm(concatenate([x, embedding], 2), weights["attention_norm"], eps=norms["attention_norm"])
    maps: Any = {**parts, "wo": weights["w_heads"], "bo": None}
    y, kept = attention(read, cache.attention, past, maps, rotary, settings=settings.attention)
    y = rms_norm(y, weights["mlp_norm"], eps=norms["mlp_norm"])
    y = linear(gated_mlp(y, weights["mlp"], **settings.mlp.settings), weights["w_shared"])
    read = rms_norm(x + y, weights["mamba_norm"], eps=norms["mamba_norm"])
    y, states = mamba2(read, cache.states, past, weights, settings=settings.mamba)
    return y, HybridCache(*kept[:2], *states)
