"""Heads: the parts that turn the last layer's output into logits of tokens or labels, or into one embedding
per text.
"""

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
    """An optional first step of a head: a linear map, an activation and a norm.

    The map's output has `width` elements; None means as many as the map's input.
    """

    activation: Activation | None
    bias: bool = True
    norm: Norm | None = None
    width: int | None = None


class AdaptiveSoftmax(Record):
    """An output layer for a large vocabulary in which frequent tokens have low ids (`ops.adaptive_softmax`).

    Ids below the first of the `cutoffs` are the short list, with vectors of the model's width. A cluster of
    rarer ids begins at each cutoff. The vectors of cluster i, counted from 0, have ⌊width / `divisor`^(i +
    1)⌋ elements, as in torch's AdaptiveLogSoftmaxWithLoss.
    """

    cutoffs: tuple[int, ...]
    divisor: float = 4.0

    def width(self, cluster: int, width: int) -> int:
        """Return the number of elements in a cluster's vectors, in a model of this width."""
        return int(width // self.divisor ** (cluster + 1))

    def clusters(self, width: int, vocabulary: int) -> list[dict[str, int]]:
        """Return the axis sizes of each cluster's parameters, as a dict from axis letter to size.

        The letters are those in `ops.adaptive_softmax.Tail`.
        """
        ends = pairwise((*self.cutoffs, vocabulary))
        return [{"D": width, "K": self.width(i, width), "V": b - a} for i, (a, b) in enumerate(ends)]

    @property
    def columns(self) -> int:
        """The number of outputs of the first softmax: one for each token of the short list, and one for each
        cluster.
        """
        return self.cutoffs[0] + len(self.cutoffs)

    def check(self, width: int, vocabulary: int) -> None:
        """Raise ConfigError if this output layer doesn't fit a model with this width and vocabulary."""
        within("clusters of the adaptive softmax", len(self.cutoffs), LIMITS["clusters"])
        for cutoff, least in zip(self.cutoffs, (1, *(cutoff + 1 for cutoff in self.cutoffs)), strict=False):
            within("cutoffs of the adaptive softmax, in ascending order,", cutoff, vocabulary - 1, least)
        possible = 1 <= self.divisor <= width
        need(possible, f"divisor of the adaptive softmax must be 1 to {width}, got {self.divisor!r}")
        within("width of the last cluster", self.width(len(self.cutoffs) - 1, width), LIMITS["width"])


class _Parts:
    """The optional settings of a head, with the values that mean "absent". `tied` and `bias` belong to the
    last map.
    """

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
    """The base class of heads: the settings of a head, and what other packages derive from the settings.

    The head's parameters are listed in `ops.head.HeadWeights`. In the methods, `width` is the number of
    elements in the head's input vectors: the width of the token tables in a decoder, and the model's width
    otherwise.
    """

    # Whether it is a decoder's. Where the tables have a width of their own, a map leads to it.
    generates: ClassVar[bool] = False
    # What its last map leads to: scores of the rows of a table, labels, or nothing, as it has none.
    last: ClassVar[Literal["table", "labels"] | None] = None

    @property
    def predicts_tokens(self) -> bool:
        """Whether the head outputs a score for each token of the vocabulary, so that a KL divergence can be
        computed.
        """
        return self.last == "table"

    def check(self, width: int, tables: int, vocabulary: int) -> None:
        """Raise ConfigError if a model can't have this head.

        `width` is the number of elements in the head's input vectors, `tables` the width of the token
        tables.
        """
        inner = self.inner(width)
        within("width of the head's dense map", inner, LIMITS["width"])
        if self.last == "table" and self.tied:
            need(
                inner - (self.further or 0) == tables,
                f"a tied output must have the embedding's width ({tables}), got {inner}",
            )
        check_bounds("", self)

    def inner(self, width: int) -> int:
        """Return the number of elements in the vectors after the head's dense map."""
        return width if self.dense is None or self.dense.width is None else self.dense.width

    def widths(self, inner: int) -> list[int]:
        """Return the number of elements in the vectors before the head's projections and after each
        projection.
        """
        return list(accumulate(self.projections, lambda width, one: one.width or width, initial=inner))

    def outputs(self, width: int, vocabulary: int) -> int:
        """Return the number of elements in each output of the head."""
        return vocabulary

    def form(self, leaf: str) -> int:
        """Return which of a parameter's possible shapes applies, as an index into the shapes of its
        annotation.

        Most parameters have one shape, and the index is 0.
        """
        return int(
            (leaf == "bias" and self.adaptive is not None) or (leaf == "table" and self.further is not None)
        )

    def leaves(self) -> Sequence[str]:
        """Return the optional parameters of the head's last map, if this map scores the tokens of a table."""
        if self.last != "table":
            return ()
        there = {"table": not self.tied, "further": self.further is not None, "bias": self.bias}
        return [leaf for leaf, has in there.items() if has]

    def describe(self) -> str:
        """Return the text that `inspect` shows for the head, after the vocabulary size; "" if nothing is
        unusual.
        """
        return " (tied)" if self.last == "table" and self.tied else ""

    def numbers(self) -> Iterator[float]:
        yield from (1e-12,) if self.unit else ()  # the least length that `ops.head.unit` divides by

    def epsilons(self) -> dict[str, float]:
        """Return a dict from the parameter of each norm in the head to the norm's eps."""
        norms = {"norm": self.dense and self.dense.norm, "mlp_after": self.mlp and self.mlp.after}
        return epsilons(norms)


class LM(Head):
    """A language model's head: logits of the next token, multiplied by `scale` and bounded to ± `softcap`.

    With `tied` the output table is the token table. `dense` is applied to the vectors before the table
    (ModernBERT's decoder). With `adaptive` the outputs are log-probabilities instead of logits; `bias` is
    then the only other option that is allowed.
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
    """The base class of heads for models that read whole texts and don't generate text."""


class MaskedLM(ReadingHead):
    """A masked language model's head: logits of the token at each position.

    With `further`, the vectors are wider than the token table. The table multiplies all but their last
    `further` elements, and a second table multiplies the last `further` elements (MobileBERT).
    """

    tied: bool
    dense: Dense | None = None
    bias: bool = True
    further: int | None = bounded("width", "elements with a table of their own", default=None)

    last = "table"

    def check(self, width: int, tables: int, vocabulary: int) -> None:
        super().check(width, tables, vocabulary)
        own = self.further is None or self.further == self.inner(width) - tables
        need(own, f"further must be the width of vectors minus the width of the tables, got {self.further}")


class CTC(ReadingHead):
    """A head for transcribing recordings: logits of tokens at each position of the recording
    (`decoding.ctc`).

    One of the tokens is the blank, which means that no token begins at this position. Nothing else reads the
    token table, so this table is the head's.
    """

    tied: bool = True
    bias: bool = True

    last = "table"

    def check(self, width: int, tables: int, vocabulary: int) -> None:
        super().check(width, tables, vocabulary)
        need(self.tied, "a model that reads sounds must have a tied output, got a head with its own table")


class Classify(ReadingHead):
    """A classifier's head: logits of labels for a whole text.

    `kind` says how scores are computed from the logits: by one softmax ("single"), by a sigmoid for each
    label ("multi"), or unchanged ("regression"). `dense` is applied after the text is pooled; with `late` it
    is applied to each token before pooling (EuroBERT). `end` is the id of a token that ends texts, for
    example mBART's language token. Tokens after its last occurrence aren't pooled.
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
    """A tagger's head: logits of labels for each token."""

    labels: int = bounded("vocabulary")
    dense: Dense | None = None
    bias: bool = True

    last = "labels"

    def outputs(self, width: int, vocabulary: int) -> int:
        return self.labels


class QuestionAnswering(ReadingHead):
    """A head that outputs two logits per token: the answer starts at this token, and the answer ends at this
    token.

    With `mlp` each vector x first becomes norm(x + mlp(x)), with the norm `mlp.after` (BigBird).
    """

    dense: Dense | None = None
    bias: bool = True
    mlp: Plain | None = None

    last = "labels"

    def check(self, width: int, tables: int, vocabulary: int) -> None:
        super().check(width, tables, vocabulary)
        if self.mlp is not None:
            need(
                self.mlp.placed_norms.keys() <= {"after"}, "the head's mlp may have a norm only after the mlp"
            )
            within("width of the head's mlp", self.mlp.width, LIMITS["width"])

    def outputs(self, width: int, vocabulary: int) -> int:
        return 2


class Pool(ReadingHead):
    """A sentence encoder's head: one embedding per text. With `unit` each embedding has length 1.

    `projections` are linear maps that come after the pooling and `dense`, in this order: the Dense modules of
    sentence-transformers. They have no norms. `cuts` lists the widths to which an embedding may be cut, or
    None for any width. A model with `cuts` was trained so that the first elements alone are an embedding
    (Matryoshka representations, Kusupati et al. 2022).
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
