"""The norms of a model: RMSNorm, LayerNorm, and a replacement that doesn't normalize."""

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
        """Return the names of the norm's learned parameters: only the factor."""
        return ("weight",)


class LayerNorm(Record):
    """Layer normalization; `weight` and `bias` say whether it has a learned factor and a learned shift."""

    eps: float
    bias: bool = True
    weight: bool = True

    op: ClassVar[str] = "layer_norm"

    def leaves(self) -> tuple[str, ...]:
        """Return the names of the norm's learned parameters: the factor and the shift, if it has them."""
        return *(("weight",) if self.weight else ()), *(("bias",) if self.bias else ())


class Affine(Record):
    """A learned factor and shift for each element, used in place of a norm; nothing is normalized
    (MobileBERT's NoNorm)."""

    op: ClassVar[str] = "affine"
    eps: ClassVar[None] = None

    def leaves(self) -> tuple[str, ...]:
        """Return the names of the learned parameters: the factor and the shift."""
        return ("weight", "bias")


Norm = RMSNorm | LayerNorm | Affine


def epsilons(norms: Mapping[str, Norm | None]) -> dict[str, float]:
    """Return the eps of each norm by name, without norms that are None or have no eps."""
    return {name: norm.eps for name, norm in norms.items() if norm is not None and norm.eps is not None}


class Norms(TypedDict):
    """The norms around a sublayer, as keyword arguments for a `Sublayer`."""

    pre: Norm | None
    post: Norm | None
    after: Norm | None


class Sublayer(Record):
    """The norms around a sublayer: `pre` of its input, `post` of its output, `after` of the sum with the
    residual.

    The parameters of a norm are stored beside the sublayer's own, under the sublayer's and the norm's names:
    `attn_pre` for `attn`. `ops.block` computes the norms.
    """

    pre: Norm | None = field(default=None, kw_only=True)
    post: Norm | None = field(default=None, kw_only=True)
    after: Norm | None = field(default=None, kw_only=True)

    @property
    def norms_around(self) -> Norms:
        """The sublayer's norms as keyword arguments, for building another sublayer with the same norms."""
        return {"pre": self.pre, "post": self.post, "after": self.after}

    @property
    def placed_norms(self) -> dict[str, Norm]:
        """A dict from name to norm, with only the norms that this sublayer has."""
        return {name: norm for name in Norms.__annotations__ if (norm := getattr(self, name)) is not None}


class NoSublayer:
    """The absence of a sublayer, and so of the norms around it."""

    pre: ClassVar[None] = None
    post: ClassVar[None] = None
    after: ClassVar[None] = None
    placed_norms: ClassVar[Mapping[str, Norm]] = {}


class HeadNorm(Record):
    """A norm of queries and keys, without a shift. It comes before the rotary positions or, with `rotated`,
    after.

    `over` says what is normalized: "head" normalizes each head with one weight [K] for all heads (Qwen 3).
    "each" normalizes each head with a weight for each head, [H, K] (StableLM, Cohere). "all" normalizes all
    heads of a token together with a weight [H·K] (OLMo 2). A norm after the rotation may have no `weight`:
    each query and key then has the length √K (Llama 4).
    """

    norm: Norm
    over: Literal["head", "each", "all"] = "head"
    rotated: bool = False
    weight: bool = True
