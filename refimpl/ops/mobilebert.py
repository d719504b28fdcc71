"""MobileBERT's bottleneck: attention and several mlps over vectors that are narrower than the model's (Sun et
al. 2020, MobileBERT, arXiv 2004.02984, §3.2).

A deep model of narrow vectors is small, but hard to train. So each layer reads and writes wide vectors, which
can be compared with a teacher's vectors, and computes on narrow ones:

    narrow    n0 = norm(x · w_narrow)
    attention n1 = norm(n0 + attention)        queries and keys of norm(x · w_shared), values of x
    mlps      n2 = norm(n1 + mlp(n1)), n3 = norm(n2 + mlp(n2)), …
    output    y = n · w_wide, which the layer adds to x

There are several mlps, so that attention and mlps share the parameters in the same proportion as in a layer
without a bottleneck ("stacked feed-forward networks"). Without `w_shared`, queries, keys and values are made
from n0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NotRequired, TypedDict

from ..config import LIMITS, Affine, LayerNorm, Norm, Plain, SmoothingSite, TokenMixer
from ..config.bounds import need, within
from ..config.norms import epsilons
from ..config.record import bounded
from .arrays import indices, join_last, repeated
from .attention import attend, heads
from .dispatch import op
from .linear import linear
from .mask import padding_mask
from .mlp import PlainMlpWeights, plain_mlp
from .norm import NormWeights, normalize
from .quant import Blocks

if TYPE_CHECKING:
    from ..axes import Array, Float, Index


class NarrowNormWeights(NormWeights, total=False):
    """The parameters of a norm of MobileBERT's narrow vectors."""

    weight: Float[Array, " H*K"]
    bias: Float[Array, " H*K"]


class NarrowMlpWeights(PlainMlpWeights):
    """The parameters of an mlp over narrow vectors, and of the norm of the sum after it."""

    after: NarrowNormWeights


class MobileBertWeights(TypedDict):
    """The parameters of MobileBERT's bottleneck: the maps to narrow vectors and back with their norms, the
    parameters of attention, and the parameters of the mlps.

    The maps to queries, keys and values aren't called `wq`, `wk` and `wv`, because a graph joins maps with
    these names. Here they can't be joined: values may be made from other vectors than queries and keys.
    """

    w_narrow: Float[Array, "D H*K"] | Blocks
    b_narrow: Float[Array, " H*K"]
    narrow_norm: NarrowNormWeights
    w_shared: NotRequired[Float[Array, "D H*K"] | Blocks]
    b_shared: NotRequired[Float[Array, " H*K"]]
    shared_norm: NotRequired[NarrowNormWeights]
    w_query: Float[Array, "H*K H*K"] | Blocks
    w_key: Float[Array, "H*K H*K"] | Blocks
    w_value: Float[Array, "D H*K"] | Float[Array, "H*K H*K"] | Blocks
    wo: Float[Array, "H*K H*K"] | Blocks
    b_query: Float[Array, " H*K"]
    b_key: Float[Array, " H*K"]
    b_value: Float[Array, " H*K"]
    bo: Float[Array, " H*K"]
    out_norm: NarrowNormWeights
    mlps: list[NarrowMlpWeights]
    w_wide: Float[Array, "H*K D"] | Blocks
    b_wide: Float[Array, " D"]


class MobileBertBottleneck(TokenMixer):
    """The settings of MobileBERT's layer without its last sum (`ops.mobilebert`). Attention with `heads`
    heads is followed by `mlps`, and each mlp is followed by the norm of its sum. All heads together are as
    wide as the narrow vectors.

    With `shared`, queries and keys are made from separate narrow vectors. With `wide_values`, values are
    made from the wide vectors. `norm` is the norm of all narrow vectors except the outputs of the mlps.
    """

    heads: int = bounded("heads")
    head_size: int = bounded("width")
    mlps: tuple[Plain, ...]
    norm: Norm
    shared: bool = True
    wide_values: bool = True

    weights = MobileBertWeights
    title, place, has_map = "MobileBERT's bottleneck", "encoder", True
    choices: ClassVar = {"norm": (Affine(), LayerNorm(0.1)), "activation": ("relu", "tanh")}
    together: ClassVar = dict.fromkeys(("b_shared", "shared_norm"), "w_shared")

    def check(self, at: str) -> None:
        super().check(at)
        within(f"{at}mlps of the bottleneck", len(self.mlps), LIMITS["clusters"])
        for mlp in self.mlps:
            mlp.check(f"{at}mlp of the bottleneck: ", parallel=False)
            alone = mlp.placed_norms.keys() == {"after"}
            need(alone, f"{at}an mlp of the bottleneck must have a norm after the mlp, and no other norm")

    def sizes(self, width: int) -> Mapping[str, float]:
        return {"H": self.heads, "K": self.head_size}

    def leaves(self) -> Sequence[str]:
        return ("w_shared", "b_shared") if self.shared else ()

    def form(self, leaf: str) -> int:
        return int(leaf == "w_value" and not self.wide_values)

    @property
    def inner_width(self) -> int:
        return self.heads * self.head_size

    def inner_norms(self) -> Mapping[str, Norm]:
        names = ("narrow_norm", *(("shared_norm",) if self.shared else ()), "out_norm")
        return dict.fromkeys(names, self.norm)

    def inner_mlps(self) -> Sequence[Plain]:
        return self.mlps

    def mix_whole(self, x: Array, lengths: Array, weights: Any, positions: Any, causal: bool) -> Array:
        return mobilebert_bottleneck(x, lengths, weights, settings=self)

    def readers(self) -> tuple[str, ...]:
        there = {"w_narrow": True, "w_shared": self.shared, "w_value": self.wide_values}
        return tuple(leaf for leaf, has in there.items() if has)

    def smoothing(self, *, read_later: bool) -> list[SmoothingSite]:
        sites = [SmoothingSite(("w_value", "b_value"), ("wo",), 1, self.head_size)]
        for i, mlp in enumerate(self.mlps):
            for site in mlp.smoothing():
                producers, consumers = ([f"mlps.{i}.{leaf}" for leaf in leaves] for leaves in site[:2])
                sites.append(SmoothingSite(tuple(producers), tuple(consumers)))
        return sites

    def describe(self) -> str:
        counts = Counter(mlp.describe() for mlp in self.mlps)
        mlps = ", ".join(f"{count} times {mlp}" for mlp, count in counts.items())
        return f"a bottleneck of {self.inner_width}: {self.heads} heads of {self.head_size}, {mlps}"

    def numbers(self) -> Iterator[float]:
        yield self.head_size**-0.5

    def epsilons(self) -> dict[str, float]:
        of_mlps = {f"mlps.{i}.after": mlp.after for i, mlp in enumerate(self.mlps)}
        return epsilons({**self.inner_norms(), **of_mlps})

    @classmethod
    def drawn(cls, chosen: Mapping[str, Any], size: Mapping[str, int]) -> MobileBertBottleneck:
        mlp = Plain(size["F"], chosen["activation"], chosen["bup"] is not None, after=chosen["norm"])
        value, norm, shared = chosen["w_value"], chosen["norm"], chosen["w_shared"] is not None
        wide = isinstance(value, str) or value.dims[0] == "D"
        return cls(size["H"], size["K"], (mlp,) * 2, norm, shared, wide)


@op
def mobilebert_bottleneck(
    x: Float[Array, "B T D"],
    lengths: Index[Array, " B", "< T+1"],
    weights: MobileBertWeights,
    *,
    settings: MobileBertBottleneck,
) -> Float[Array, "B T D"]:
    """Compute MobileBERT's sublayer: a map to narrow vectors, attention, mlps, and a map back to the
    model's width.

    Conventions: as in `self_attention`, rows are padded on the right, no token reads padding, and outputs
    at padding are unspecified.
    """
    norm, size, t = settings.norm, settings.head_size, x.shape[1]
    narrow = normalize(
        linear(x, weights["w_narrow"], weights["b_narrow"]), weights.get("narrow_norm"), norm=norm
    )
    asking, told = narrow, x if settings.wide_values else narrow
    if "w_shared" in weights:
        assert "b_shared" in weights
        asking = linear(x, weights["w_shared"], weights["b_shared"])
        asking = normalize(asking, weights.get("shared_norm"), norm=norm)
    q = heads(asking, weights["w_query"], weights["b_query"], size=size)
    k = heads(asking, weights["w_key"], weights["b_key"], size=size)
    v = heads(told, weights["w_value"], weights["b_value"], size=size)
    real = padding_mask(indices(t, x), lengths)
    y = join_last(attend(q, k, v, repeated(real[:, None], t, axis=1)))
    y = linear(y, weights["wo"], weights["bo"])
    narrow = normalize(narrow + y, weights.get("out_norm"), norm=norm)
    for mlp, leaves in zip(settings.mlps, weights["mlps"], strict=True):
        y = plain_mlp(narrow, leaves, kind=mlp.activation)
        narrow = normalize(narrow + y, leaves.get("after"), norm=mlp.after)
    return linear(narrow, weights["w_wide"], weights["b_wide"])
