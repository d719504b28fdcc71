"""Heads: they turn the last layer's output into logits of tokens or labels, or into one vector per text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any, ClassVar, Literal

from .bounds import LIMITS, check_bounds, need, within
from .mlps import Activation, Plain
from .norms import Norm, epsilons
from .record import Record, bounded

Pooling = Literal["first", "last", "mean", "max"]


class Dense(Record):
    """The linear map, activation and norm that a head may begin with.

    The map's output has `width` elements, by default as many as its input.
    """

    activation: Activation | None
    bias: bool = True
    norm: Norm | None = None
    width: int | None = None


class AdaptiveSoftmax(Record):
    """An output for a large vocabulary whose ids are sorted by frequency (`ops.adaptive_softmax`).

    Ids below the first of `cutoffs` are the short list. Each cutoff begins a cluster of ids. The vectors of
    cluster i, counted from 0, have the model's width divided by `divisor`^(i + 1), rounded down, as in
    torch's AdaptiveLogSoftmaxWithLoss.
    """

    cutoffs: tuple[int, ...]
    divisor: float = 4.0

    def width(self, cluster: int, width: int) -> int:
        """Return the width of a cluster's vectors in a model of this width."""
        return int(width // self.divisor ** (cluster + 1))

    def clusters(self, width: int, vocabulary: int) -> list[dict[str, int]]:
        """Return for each cluster a dict from each axis letter to the size of that axis in the cluster's
        parameters (`ops.adaptive_softmax.Tail`).
        """
        ends = pairwise((*self.cutoffs, vocabulary))
        return [{"D": width, "K": self.width(i, width), "V": b - a} for i, (a, b) in enumerate(ends)]

    @property
    def columns(self) -> int:
        """The number of columns of the first softmax: one for each word of the short list, and one for each
        cluster.
        """
        return self.cutoffs[0] + len(self.cutoffs)

    def check(self, width: int, vocabulary: int) -> None:
        """Raise ConfigError unless this output fits a vocabulary of this size with vectors of this width."""
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
    further: int | None = None


class Head(Record, _Parts):
    """The settings of a head, and the facts that other packages derive from them.

    The parameters of a head are those in `ops.head.HeadWeights`. `width` is the width of the head's input
    vectors. In a decoder it is the width of the `tables`, in other models the width of the model.
    """

    # Whether it is a decoder's. Where the tables have a width of their own, a map leads to it.
    generates: ClassVar[bool] = False
    # What its last map leads to: scores of the rows of a table, labels, or nothing, as it has none.
    last: ClassVar[Literal["table", "labels"] | None] = None

    @property
    def predicts_tokens(self) -> bool:
        """Whether each output scores the vocabulary's tokens, so that a KL divergence can be computed."""
        return self.last == "table"

    def check(self, width: int, tables: int, vocabulary: int) -> None:
        """Raise ConfigError if a model with tables of this size can't have this head."""
        inner = self.inner(width)
        within("width of the head's dense map", inner, LIMITS["width"])
        if self.last == "table" and self.tied:
            need(
                inner - (self.further or 0) == tables,
                f"a tied output must have the embedding's width ({tables}), got {inner}",
            )
        check_bounds("", self)

    def inner(self, width: int) -> int:
        """The width of the vectors after the head's dense map."""
        return width if self.dense is None or self.dense.width is None else self.dense.width

    def widths(self, inner: int) -> list[int]:
        """The width of the vectors before the head's projections, and after each projection."""
        return list(accumulate(self.projections, lambda width, one: one.width or width, initial=inner))

    def outputs(self, width: int, vocabulary: int) -> int:
        """The number of elements in each output."""
        return vocabulary

    def form(self, leaf: str) -> int:
        """The index of a parameter's shape among the shapes that the class of weights lists for it."""
        return int(
            (leaf == "bias" and self.adaptive is not None) or (leaf == "table" and self.further is not None)
        )

    def leaves(self) -> Sequence[str]:
        """The parameters of the head's last map apart from its table, if this map uses a token table."""
        if self.last != "table":
            return ()
        there = {"table": not self.tied, "further": self.further is not None, "bias": self.bias}
        return [leaf for leaf, has in there.items() if has]

    def describe(self) -> str:
        """The text that `inspect` shows for the head after the vocabulary, without usual settings."""
        return " (tied)" if self.last == "table" and self.tied else ""

    def numbers(self) -> Iterator[float]:
        yield from (1e-12,) if self.unit else ()  # the least length that `ops.head.unit` divides by

    def epsilons(self) -> dict[str, float]:
        """A dict from the parameter of each of the head's norms to the norm's eps."""
        norms = {"norm": self.dense and self.dense.norm, "mlp_after": self.mlp and self.mlp.after}
        return epsilons(norms)


class LM(Head):
    """Logits of the next token, multiplied by `scale` and bounded to ± `softcap`.

    With `tied` the output table is the token table. Vectors pass through `dense` before the table
    (ModernBERT's decoder). With `adaptive`, the outputs are log-probabilities, and `bias` is the only other
    option that is possible.
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
    """A head for models that read whole texts instead of generating text."""


class MaskedLM(ReadingHead):
    """A head that gives the logits of the token at each position.

    With `further`, the head's table multiplies a vector without its last `further` elements. Another table
    multiplies these last elements (MobileBERT).
    """

    tied: bool
    dense: Dense | None = None
    bias: bool = True
    further: int | None = bounded("width", "elements with a table of their own", default=None)

    last = "table"

    def check(self, width: int, tables: int, vocabulary: int) -> None:
        super().check(width, tables, vocabulary)
        own = self.further is None or self.further == self.inner(width) - tables
        need(own, f"further must be how much wider vectors are than the tables, got {self.further}")


class CTC(ReadingHead):
    """Logits of tokens for each position of a recording, to transcribe it (`decoding.ctc`).

    One token is the blank, which says that no token begins at that position. The token table belongs to the
    output, since nothing else reads it.
    """

    tied: bool = True
    bias: bool = True

    last = "table"

    def check(self, width: int, tables: int, vocabulary: int) -> None:
        super().check(width, tables, vocabulary)
        need(self.tied, "a model that reads sounds must have a tied output, got a head with its own table")


class Classify(ReadingHead):
    """Logits of labels for a whole text.

    `kind` says how scores are computed from the logits: by one softmax, by a sigmoid for each label, or
    unchanged. With `late`, each token passes through `dense` before the text is pooled (EuroBERT). If a text
    has a token `end`, tokens after its last `end` aren't pooled. An example is the language token with which
    mBART's texts end.
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
    """Logits of labels for each token."""

    labels: int = bounded("vocabulary")
    dense: Dense | None = None
    bias: bool = True

    last = "labels"

    def outputs(self, width: int, vocabulary: int) -> int:
        return self.labels


class QuestionAnswering(ReadingHead):
    """Two logits per token: for an answer that starts at this token, and for one that ends at it.

    With `mlp` each vector x first passes through a sublayer that belongs to the head: the norm `mlp.after` of
    x + mlp(x) (BigBird).
    """

    dense: Dense | None = None
    bias: bool = True
    mlp: Plain | None = None

    last = "labels"

    def check(self, width: int, tables: int, vocabulary: int) -> None:
        super().check(width, tables, vocabulary)
        if self.mlp is not None:
            need(self.mlp.placed_norms.keys() <= {"after"}, "the head's mlp may have only the norm after it")
            within("width of the head's mlp", self.mlp.width, LIMITS["width"])

    def outputs(self, width: int, vocabulary: int) -> int:
        return 2


class Pool(ReadingHead):
    """One embedding per text, of length 1 with `unit`.

    `projections` are maps that follow the pooling and `dense`, in order: the Dense modules of sentence
    encoders. They have no norm. An embedding may be cut to any of the widths `cuts`: the model was trained so
    that its first elements are an embedding too (Matryoshka representations, Kusupati et al. 2022). None
    allows any width.
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
