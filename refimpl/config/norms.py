"""The norms of a model: RMSNorm and LayerNorm, and what may stand in their place."""

# Without `from __future__ import annotations`: the records of other files inherit these types in their
# `__init__`, where a tool that documents them looks names up in those files.
from collections.abc import Mapping
from dataclasses import field
from typing import ClassVar, Literal, TypedDict

from .record import Record


class RMSNorm(Record):
    """Root mean square normalization with a learned weight."""

    eps: float

    op: ClassVar[str] = "rms_norm"

    def leaves(self) -> tuple[str, ...]:
        """The norm's learned parameters: a factor and a shift."""
        return ("weight",)


class LayerNorm(Record):
    """Layer normalization; `weight` and `bias` say whether it has a learned factor and a learned shift."""

    eps: float
    bias: bool = True
    weight: bool = True

    op: ClassVar[str] = "layer_norm"

    def leaves(self) -> tuple[str, ...]:
        """The norm's learned parameters: a factor and a shift."""
        return *(("weight",) if self.weight else ()), *(("bias",) if self.bias else ())


class Affine(Record):
    """A learned factor and a learned shift of each element, in the place of a norm: nothing is normalized
    (MobileBERT's NoNorm)."""

    op: ClassVar[str] = "affine"
    eps: ClassVar[None] = None

    def leaves(self) -> tuple[str, ...]:
        """The learned parameters: a factor and a shift."""
        return ("weight", "bias")


Norm = RMSNorm | LayerNorm | Affine


def epsilons(norms: Mapping[str, Norm | None]) -> dict[str, float]:
    """Return the eps of each of these norms that is there and has one, by its name."""
    return {name: norm.eps for name, norm in norms.items() if norm is not None and norm.eps is not None}


class Norms(TypedDict):
    """The norms of a sublayer, in the form in which a sublayer takes them."""

    pre: Norm | None
    post: Norm | None
    after: Norm | None


class Sublayer(Record):
    """The norms that a sublayer may have: of its input, of its output, and of the sum with the residual.

    The parameters of each are beside the sublayer's own, by the field's name: `attn_pre` for `attn`.
    `ops.block` computes them. Only `pre` is between the residual and what a sublayer reads, and only `after`
    follows the sum; smoothing and the checks of a graph use this.
    """

    pre: Norm | None = field(default=None, kw_only=True)
    post: Norm | None = field(default=None, kw_only=True)
    after: Norm | None = field(default=None, kw_only=True)

    @property
    def norms_around(self) -> Norms:
        """The norms by name, in the form in which a config reader passes them to another sublayer that
        replaces this one.
        """
        return {"pre": self.pre, "post": self.post, "after": self.after}

    @property
    def placed_norms(self) -> dict[str, Norm]:
        """The norms that are there, by name."""
        return {name: norm for name in Norms.__annotations__ if (norm := getattr(self, name)) is not None}


class NoSublayer:
    """No sublayer, which has no norms."""

    pre: ClassVar[None] = None
    post: ClassVar[None] = None
    after: ClassVar[None] = None
    placed_norms: ClassVar[Mapping[str, Norm]] = {}


class HeadNorm(Record):
    """A norm of queries and of keys, without a shift. It comes before their rotation or, with `rotated`,
    after it.

    With `head`, it normalizes each head, with one weight [K] for all heads (Qwen 3). With `each`, each head
    has a weight of its own, [H, K] (StableLM, Cohere). With `all`, it normalizes all heads of a token
    together, with a weight [H·K] (OLMo 2). After a rotation the norm may have no `weight`: each query and key
    then has the length √K (Llama 4).
    """

    norm: Norm
    over: Literal["head", "each", "all"] = "head"
    rotated: bool = False
    weight: bool = True
