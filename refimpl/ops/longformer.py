"""Longformer's attention: a window around each token, and a few global tokens that see all and are seen by
all (Beltagy et al. 2020, arXiv 2004.05150, §3.1).

With only a window, a token gets information from far tokens only through many layers. Global tokens
shorten the path: a global token gathers information from the whole text, and all other tokens read it in
the next layer. The task determines which tokens are global. If a text is classified, its first token is
global. If a question is answered, the question's tokens are global. If words are predicted, no token is
global.

    reach 1, token 0 global     key  0 1 2 3 4 5
                        query 0      g g g g g g
                        query 1      x x x . . .
                        query 2      x x x x . .
                        query 5      x . . . x x

The scores of a global query (g) use separate maps to queries, keys and values, since attention for a
summary differs from attention to neighbours ("Linear Projections for Global Attention" in the paper). All
other queries (x) use the maps of the window, for global keys too. A text of T tokens with G global ones
has about T · (2 · reach + 1 + 2 · G) scores, not T · T.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NotRequired, Self, TypedDict

from ..config import FirstToken, GlobalTokens, QuestionTokens, SmoothingSite, TokenMixer
from ..config.bounds import need, within
from ..config.record import bounded
from .arrays import indices, join_last, repeated, smallest, where
from .attention import attend, heads
from .banded import banded_attend
from .dispatch import op
from .linear import linear
from .mask import padding_mask
from .quant import Blocks
from .sparse import longformer_mask

if TYPE_CHECKING:
    from ..axes import Array, Float, Index


class LongformerWeights(TypedDict):
    """The parameters of Longformer's attention: the maps for attention in the window, and the maps for
    global queries.
    """

    wq: Float[Array, "D H*K"] | Blocks
    wk: Float[Array, "D H*K"] | Blocks
    wv: Float[Array, "D H*K"] | Blocks
    wq_global: NotRequired[Float[Array, "D H*K"] | Blocks]
    wk_global: NotRequired[Float[Array, "D H*K"] | Blocks]
    wv_global: NotRequired[Float[Array, "D H*K"] | Blocks]
    bq: Float[Array, " H*K"]
    bk: Float[Array, " H*K"]
    bv: Float[Array, " H*K"]
    bq_global: NotRequired[Float[Array, " H*K"]]
    bk_global: NotRequired[Float[Array, " H*K"]]
    bv_global: NotRequired[Float[Array, " H*K"]]
    wo: Float[Array, "H*K D"] | Blocks
    bo: Float[Array, " D"]


class LongformerAttention(TokenMixer):
    """The settings of Longformer's attention: within a window, and between global tokens and all tokens
    (`ops.longformer`).

    A token sees the `reach` tokens on each side of it. Global tokens see all tokens and are seen by all,
    and they have separate maps to queries, keys and values. All maps have a bias.
    """

    heads: int = bounded("heads")
    head_size: int = bounded("width")
    reach: int = bounded("context", "reach of the window")
    global_tokens: GlobalTokens | None = None

    weights = LongformerWeights
    title, place = "Longformer's attention", "encoder"
    choices: ClassVar = {"reach": (1, 2)}
    together: ClassVar = dict.fromkeys(
        ("wk_global", "wv_global", "bq_global", "bk_global", "bv_global"), "wq_global"
    )

    @classmethod
    def check_together(cls, name: str, mixers: Sequence[Self], width: int, vocabulary: int) -> None:
        seen = {mixer.global_tokens for mixer in mixers}
        need(len(seen) <= 1, f"{name}: all layers must have the same global tokens, got {len(seen)} kinds")
        for one in seen:
            if isinstance(one, QuestionTokens):
                within(f"{name}: separator of the question", one.separator, vocabulary - 1, 0)

    def sizes(self, width: int) -> Mapping[str, float]:
        return {"H": self.heads, "K": self.head_size}

    def leaves(self) -> Sequence[str]:
        return () if self.global_tokens is None else [f"{part}{n}_global" for part in "wb" for n in "qkv"]

    def mix_whole(self, x: Array, lengths: Array, weights: Any, positions: Any, causal: bool) -> Array:
        return longformer_attention(x, lengths, weights, positions.question, settings=self)

    @property
    def _ends(self) -> tuple[str, ...]:
        return ("",) if self.global_tokens is None else ("", "_global")

    def readers(self) -> tuple[str, ...]:
        return tuple(f"w{n}{end}" for end in self._ends for n in "qkv")

    def smoothing(self, *, read_later: bool) -> list[SmoothingSite]:
        producers = tuple(f"{leaf}v{end}" for end in self._ends for leaf in "wb")
        return [SmoothingSite(producers, ("wo",), 1, self.head_size)]

    def describe(self) -> str:
        around = f"within {self.reach} tokens on each side"
        return f"Longformer's attention, {self.heads} heads of {self.head_size}, {around}"

    def numbers(self) -> Iterator[float]:
        yield self.head_size**-0.5

    @classmethod
    def drawn(cls, chosen: Mapping[str, Any], size: Mapping[str, int]) -> LongformerAttention:
        """Return settings that fit arrays drawn at random for a test of properties.

        The settings include global tokens if their projections are among the arrays. The question's tokens
        are global if the end of the question is given, otherwise the first token is global."""
        seen = FirstToken() if chosen["question"] is None else QuestionTokens(0)
        return cls(size["H"], size["K"], chosen["reach"], None if chosen["wq_global"] is None else seen)


@op
def question_end(tokens: Index[Array, "B T", "< N"], *, separator: int) -> Index[Array, " B", "< T+1"]:
    """Return the position of the first `separator` in each row. The tokens before the separator are the
    question.

    Conventions: in a row without a separator, all tokens are the question.
    """
    at = indices(tokens.shape[1], tokens)
    return smallest(where(tokens == separator, at, at[-1:] + 1), 1)


@op
def longformer_attention(
    x: Float[Array, "B T D"],
    lengths: Index[Array, " B", "< T+1"],
    weights: LongformerWeights,
    question: Index[Array, " B", "< T+1"] | None = None,
    *,
    settings: LongformerAttention,
) -> Float[Array, "B T D"]:
    """Compute the sublayer of Longformer's attention, under `longformer_mask`. Global queries attend to
    all tokens, with separate maps.

    If the global tokens are the tokens of a question, `question` says how many tokens of each row are
    global. Conventions: as in `self_attention`, rows are padded on the right: no token sees padding, and
    outputs at padding are unspecified. transformers pads texts to a multiple of the widest window, which
    changes nothing.
    """
    q, k, v = (heads(x, weights[f"w{n}"], weights[f"b{n}"], size=settings.head_size) for n in "qkv")
    y = local_and_global(x, lengths, (q, k, v), weights, question, settings=settings)
    return linear(join_last(y), weights["wo"], weights["bo"])


def local_and_global(
    x: Array,
    lengths: Array,
    local: tuple[Array, Array, Array],
    weights: LongformerWeights,
    question: Array | None,
    *,
    settings: LongformerAttention,
) -> Array:
    """Return the heads' outputs [B, T, H, K] for the queries, keys and values of the window.

    If only the first token is global, the window is computed as a band, and the first token is a sink. If
    the question's tokens are global, all scores are computed, because the length of a question differs
    from text to text.
    """
    t, reach = x.shape[1], settings.reach
    at = indices(t, x)
    real = padding_mask(at, lengths)
    if settings.global_tokens is None:
        return banded_attend(*local, real, band=(reach + 1, reach))

    def own(x: Array, name: str) -> Array:
        return heads(x, weights[f"w{name}_global"], weights[f"b{name}_global"], size=settings.head_size)

    k, v = own(x, "k"), own(x, "v")
    if isinstance(settings.global_tokens, FirstToken):
        y = banded_attend(*local, real, band=(reach + 1, reach), sinks=1)
        first = attend(own(x[:, :1], "q"), k, v, real[:, None])
        return where((at == 0)[:, None, None], first, y)
    assert question is not None
    spread = at < question[:, None]
    seen = longformer_mask(at[None], at[None], spread, spread, reach=reach) & real[:, None]
    every = attend(own(x, "q"), k, v, repeated(real[:, None], t, 1))
    return where(spread[:, :, None, None], every, attend(*local, seen))
