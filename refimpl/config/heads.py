"""Heads: what is computed from the last layer, logits of tokens or labels, or one vector per text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any, ClassVar, Literal

from .bounds import LIMITS, check_bounds, need, within
from .mlps import Activation, Plain
from .norms import Norm
from .record import Record, bounded

Pooling = Literal["first", "last", "mean", "max"]


class Dense(Record):
    """A linear map, an activation and a norm, which a head may begin with.

    The map leads to `width`, by default to the width of its input.
    """

    activation: Activation | None
    bias: bool = True
    norm: Norm | None = None
    width: int | None = None


class AdaptiveSoftmax(Record):
    """An output for a large vocabulary whose ids are in the order of frequency (`ops.adaptive_softmax`).

    Ids below the first of `cutoffs` are the short list; from each cutoff on there is a cluster. The vectors
    of cluster i, from 0 on, have the width of the model divided by `divisor`^(i + 1), rounded down, as in
    torch's AdaptiveLogSoftmaxWithLoss.
    """

    cutoffs: tuple[int, ...]
    divisor: float = 4.0

    def width(self, cluster: int, width: int) -> int:
        """The width of a cluster's vectors in a model of this width."""
        return int(width // self.divisor ** (cluster + 1))

    def clusters(self, width: int, vocabulary: int) -> list[dict[str, int]]:
        """The letters of the axes in the leaves of each cluster (`ops.adaptive_softmax.Tail`)."""
        ends = pairwise((*self.cutoffs, vocabulary))
        return [{"D": width, "K": self.width(i, width), "V": b - a} for i, (a, b) in enumerate(ends)]

    @property
    def columns(self) -> int:
        """The short list and the clusters, among which each token chooses first."""
        return self.cutoffs[0] + len(self.cutoffs)

    def check(self, width: int, vocabulary: int) -> None:
        """Raise ConfigError where a vocabulary of this size, with vectors of this width, can't have it."""
        within("clusters of the adaptive softmax", len(self.cutoffs), LIMITS["clusters"])
        for cutoff, least in zip(self.cutoffs, (1, *(cutoff + 1 for cutoff in self.cutoffs)), strict=False):
            within("cutoffs of the adaptive softmax, in ascending order,", cutoff, vocabulary - 1, least)
        possible = 1 <= self.divisor <= width
        need(possible, f"divisor of the adaptive softmax must be 1 to {width}, got {self.divisor!r}")
        within("width of the last cluster", self.width(len(self.cutoffs) - 1, width), LIMITS["width"])


class _Parts:
    """What a head may have, and mostly has not. `tied` and `bias` are there where its last map is."""

    tied: bool
    bias: bool
    dense: Dense | None = None
    pooling: Any = None  # a `Pooling`
    late: bool = False
    end: int | None = None
    mlp: Plain | None = None
    projections: tuple[Dense, ...] = ()
    unit: bool = False
    adaptive: AdaptiveSoftmax | None = None


class Head(Record, _Parts):
    """The settings of a head, and what other rooms ask of it; its leaves are those of `ops.head.HeadWeights`.

    `width` is that of the vectors that it gets: a decoder's have that of the `tables`, others the model's.
    """

    # Whether it is a decoder's. Where the tables have a width of their own, a map leads to it.
    generates: ClassVar[bool] = False
    # What its last map leads to: scores of the rows of a table, labels, or nothing, as it has none.
    last: ClassVar[Literal["table", "labels"] | None] = None

    @property
    def predicts_tokens(self) -> bool:
        """Whether each output is scores of a vocabulary's tokens, of which a KL divergence can be taken."""
        return self.last == "table"

    def check(self, width: int, tables: int, vocabulary: int) -> None:
        """Raise ConfigError where a model with tables of this size can't have it."""
        inner = self.inner(width)
        within("width of the head's dense map", inner, LIMITS["width"])
        if self.last == "table" and self.tied:
            need(inner == tables, f"a tied output must have the width of the tables, {tables}, got {inner}")
        check_bounds("", self)

    def inner(self, width: int) -> int:
        """The width of the vectors behind its dense map."""
        return width if self.dense is None or self.dense.width is None else self.dense.width

    def widths(self, inner: int) -> list[int]:
        """The width of the vectors before its projections, and after each."""
        return list(accumulate(self.projections, lambda width, one: one.width or width, initial=inner))

    def outputs(self, width: int, vocabulary: int) -> int:
        """How many numbers it gives."""
        return vocabulary

    def form(self, leaf: str) -> int:
        """Which shape a leaf has of those that its weights say."""
        return int(leaf == "bias" and self.adaptive is not None)

    def leaves(self) -> Sequence[str]:
        """The leaves of its last map that it has of its own, where that leads to a table."""
        if self.last != "table":
            return ()
        return *(() if self.tied else ("table",)), *(("bias",) if self.bias else ())

    def describe(self) -> str:
        """What `inspect` says of it, behind the vocabulary; nothing of what is usual."""
        return " (tied)" if self.last == "table" and self.tied else ""

    def numbers(self) -> Iterator[float]:
        yield from (1e-12,) if self.unit else ()  # the least length that `ops.head.unit` divides by

    def epsilons(self) -> dict[str, float]:
        """The eps of its norms, by their leaves."""
        norms = {"norm": self.dense and self.dense.norm, "mlp_after": self.mlp and self.mlp.after}
        return {leaf: norm.eps for leaf, norm in norms.items() if norm is not None}


class LM(Head):
    """Logits of the next token: `tied` to the token table or not, times `scale`, bounded to ± `softcap`.

    Vectors pass through `dense` before the table (ModernBERT's decoder). With `adaptive` they are
    log-probabilities, and none of the other options but `bias` are possible.
    """

    tied: bool
    softcap: float | None = None
    scale: float | None = None
    bias: bool = False
    adaptive: AdaptiveSoftmax | None = None
    dense: Dense | None = None

    generates, last = True, "table"

    def check(self, width: int, tables: int, vocabulary: int) -> None:
        super().check(width, tables, vocabulary)
        if self.adaptive is not None:
            alone = (self.tied, self.softcap, self.scale, self.dense) == (False, None, None, None)
            own = "an adaptive softmax must have an output of its own, without softcap, scale and dense map"
            need(alone, own)
            self.adaptive.check(width, vocabulary)

    def leaves(self) -> Sequence[str]:
        if self.adaptive is None:
            return super().leaves()
        return "frequent", *(("bias",) if self.bias else ())

    def describe(self) -> str:
        if self.adaptive is None:
            return super().describe()
        return f" (adaptive softmax from {', '.join(map(str, self.adaptive.cutoffs))} on)"


class ReadingHead(Head):
    """A head of whole texts."""


class MaskedLM(ReadingHead):
    """Logits of the token at each position."""

    tied: bool
    dense: Dense | None = None
    bias: bool = True

    last = "table"


class CTC(ReadingHead):
    """Logits of the token that is heard at each position of a sound, or of a blank, which says that none
    begins there (`decoding.ctc`). The table of tokens is the output's, as nothing else reads it."""

    tied: bool = True
    bias: bool = True

    last = "table"

    def check(self, width: int, tables: int, vocabulary: int) -> None:
        super().check(width, tables, vocabulary)
        need(self.tied, "the tokens of a sound have one table, got a head with another")


class Classify(ReadingHead):
    """Logits of a whole text's labels.

    `kind` says how they are read: by softmax, by a sigmoid each, or as they are. With `late` each token
    passes through `dense` before the text is pooled (EuroBERT). Where a text has a token `end`, what stands
    behind the last one isn't pooled: the language that mBART's texts end with.
    """

    labels: int = bounded("vocabulary")
    pooling: Pooling = "first"
    dense: Dense | None = None
    bias: bool = True
    kind: Literal["single", "multi", "regression"] = "single"
    late: bool = False
    end: int | None = None

    last = "labels"

    def check(self, width: int, tables: int, vocabulary: int) -> None:
        super().check(width, tables, vocabulary)
        if self.end is not None:
            within("the end token", self.end, vocabulary - 1, 0)

    def outputs(self, width: int, vocabulary: int) -> int:
        return self.labels


class Tag(ReadingHead):
    """Logits of each token's labels."""

    labels: int = bounded("vocabulary")
    dense: Dense | None = None
    bias: bool = True

    last = "labels"

    def outputs(self, width: int, vocabulary: int) -> int:
        return self.labels


class QuestionAnswering(ReadingHead):
    """Two logits per token: an answer starts here, and it ends here.

    With `mlp` each vector first passes through a sublayer of the head's own: the norm `mlp.after` of x +
    mlp(x) (BigBird).
    """

    dense: Dense | None = None
    bias: bool = True
    mlp: Plain | None = None

    last = "labels"

    def check(self, width: int, tables: int, vocabulary: int) -> None:
        super().check(width, tables, vocabulary)
        if self.mlp is not None:
            bare = (self.mlp.pre, self.mlp.post) == (None, None)
            need(bare, "the head's mlp has no norm but the one after it")
            within("width of the head's mlp", self.mlp.width, LIMITS["width"])

    def outputs(self, width: int, vocabulary: int) -> int:
        return 2


class Pool(ReadingHead):
    """One embedding per text, of length 1 with `unit`.

    `projections` are maps that follow the pooling and `dense`, in order: the Dense modules of sentence
    encoders. They have no norm. `cuts` are the widths at which the first elements of a vector are a vector
    too, by training (Matryoshka representations, Kusupati et al. 2022); None is any width.
    """

    pooling: Pooling = "mean"
    dense: Dense | None = None
    unit: bool = False
    projections: tuple[Dense, ...] = ()
    cuts: tuple[int, ...] | None = ()

    def check(self, width: int, tables: int, vocabulary: int) -> None:
        super().check(width, tables, vocabulary)
        for cut in self.cuts or ():
            within("width of a cut vector", cut, self.outputs(width, vocabulary))
        for i, dense in enumerate(self.projections):
            need(dense.norm is None, f"projection {i} of the head must have no norm, got {dense.norm}")
            within(f"width of projection {i} of the head", dense.width or width, LIMITS["width"])
        within("number of projections of the head", len(self.projections), LIMITS["layers"], 0)

    def outputs(self, width: int, vocabulary: int) -> int:
        return self.widths(self.inner(width))[-1]
