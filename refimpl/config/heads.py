"""Heads: what is computed from the last layer, logits of tokens or labels, or one vector per text."""

from __future__ import annotations

from typing import Literal

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


class LM(Record):
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


class MaskedLM(Record):
    """Logits of the token at each position."""

    tied: bool
    dense: Dense | None = None
    bias: bool = True


class Classify(Record):
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


class Tag(Record):
    """Logits of each token's labels."""

    labels: int = bounded("vocabulary")
    dense: Dense | None = None
    bias: bool = True


class QuestionAnswering(Record):
    """Two logits per token: an answer starts here, and it ends here.

    With `mlp` each vector first passes through a sublayer of the head's own: the norm `mlp.after` of x +
    mlp(x) (BigBird).
    """

    dense: Dense | None = None
    bias: bool = True
    mlp: Plain | None = None


class Pool(Record):
    """One embedding per text, of length 1 with `unit`.

    `projections` are maps that follow the pooling and `dense`, in order: the Dense modules of sentence
    encoders. They have no norm.
    """

    pooling: Pooling = "mean"
    dense: Dense | None = None
    unit: bool = False
    projections: tuple[Dense, ...] = ()

    def width(self, width: int) -> int:
        """The width of the embedding, where the model's is `width`."""
        maps = (*((self.dense,) if self.dense else ()), *self.projections)
        return next((dense.width for dense in reversed(maps) if dense.width), width)


ReadingHead = MaskedLM | Classify | Tag | QuestionAnswering | Pool  # of whole texts
Head = LM | ReadingHead
