"""What is read off the last layer: logits of tokens or labels, or one vector a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .layers import Activation, Norm

Pooling = Literal["first", "last", "mean", "max"]


@dataclass(frozen=True)
class Dense:
    """A linear map, an activation and a norm: what a head may begin with.

    The map leads to `width`, or else to the width that it comes from.
    """

    activation: Activation | None
    bias: bool = True
    norm: Norm | None = None
    width: int | None = None


@dataclass(frozen=True)
class LM:
    """Next-token logits; `tied` shares the token table, `scale` multiplies, `softcap` bounds by tanh."""

    tied: bool
    softcap: float | None = None
    scale: float | None = None
    bias: bool = False


@dataclass(frozen=True)
class MaskedLM:
    """Logits of the token at each position."""

    tied: bool
    dense: Dense | None = None
    bias: bool = True


@dataclass(frozen=True)
class Classify:
    """Logits of the labels of a whole text; `kind` says how they are read: by softmax, by a sigmoid
    each, or as they are."""

    labels: int
    pooling: Pooling = "first"
    dense: Dense | None = None
    bias: bool = True
    kind: Literal["single", "multi", "regression"] = "single"


@dataclass(frozen=True)
class Tag:
    """Logits of the labels of each token."""

    labels: int
    dense: Dense | None = None
    bias: bool = True


@dataclass(frozen=True)
class QuestionAnswering:
    """Two logits a token: that an answer starts there, and that it ends there."""

    dense: Dense | None = None
    bias: bool = True


@dataclass(frozen=True)
class Pool:
    """One vector a text, of length 1 with `unit`."""

    pooling: Pooling = "mean"
    dense: Dense | None = None
    unit: bool = False


ReadingHead = MaskedLM | Classify | Tag | QuestionAnswering | Pool  # of whole texts
Head = LM | ReadingHead
