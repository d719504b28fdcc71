"""SmoothQuant (Xiao et al. 2022): large channels of an activation are divided by what its weights gain.

    Y = (X diag(s)⁻¹) · (diag(s) W)

The division is folded into what makes X: a norm's weights, or the columns of the map before it. The
model stays the same, and what is hard to quantize moves from its activations into its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..config import Attention, Config, Gated, Layer, LayerNorm, Mlp, MoE, Norm, Plain
from ..errors import NumericError

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

__all__ = ["SmoothingSite", "apply", "factors", "folded", "largest", "places", "powers", "streams"]


class SmoothingSite(NamedTuple):
    """An activation that can be smoothed: the leaves that make it, and the matrices that read it.

    `made` are divided along their last axis, `read` multiplied along their first. Where nothing is made,
    the product itself divides its input. Where query heads share a value head, `repeats` channels of the
    activation, `head_size` wide blocks, share a factor.
    """

    made: tuple[str, ...]
    read: tuple[str, ...]
    repeats: int = 1
    head_size: int = 1


def places(config: Config) -> list[SmoothingSite]:
    """Every activation of the model that can be smoothed exactly.

    A sublayer's input, where a norm with a weight stands before it (`pre`) that nothing else reads: not
    the residual sum, but a parallel mlp without a norm of its own; in a mixture the router and all
    experts read it. The input of wo: attention is linear in the values, if they aren't clipped, so wv
    makes it. The input of down: act(gate) ⊙ up is linear in up, and ReLU commutes with positive factors;
    other activations of a plain mlp don't. Not among them: what a tied table or, with post-norms, the
    residual stream reads too (`streams`), and the encoder's output, which the decoder's layers share.
    """
    found = []
    for name, stack in config.stacks.items():
        for i, layer in enumerate(stack.layers):
            found += _layer(f"{name}.layers.{i}.", layer)
    return found


def streams(config: Config) -> list[SmoothingSite]:
    """Every input that is a norm of a sum (post-norm), in layers without a mixture.

    The next sum reads it too, so only the products can divide it. Not among them: sums that no norm
    stands after, whose large channels grow from layer to layer.
    """
    found = []
    for name, stack in config.stacks.items():
        for i, layer in enumerate(stack.layers):
            a, m, at = layer.attention, layer.mlp, f"{name}.layers.{i}."
            normed = (a.pre, m.pre) == (None, None) and None not in (a.after, m.after)
            if normed and not layer.parallel and not isinstance(m, MoE):
                found.append(SmoothingSite((), tuple(f"{at}attn.w{n}" for n in "qkv")))
                found.append(SmoothingSite((), _fed(f"{at}mlp.", m)))
    return found


def _layer(at: str, layer: Layer) -> list[SmoothingSite]:
    projections, fed = tuple(f"{at}attn.w{n}" for n in "qkv"), _fed(f"{at}mlp.", layer.mlp)
    beside = fed if layer.parallel and layer.mlp.pre is None else ()
    found = []
    if layer.residual == "input":
        found += _normed(f"{at}attn_pre", layer.attention.pre, (*projections, *beside))
        found += _normed(f"{at}mlp_pre", layer.mlp.pre, fed)
        if layer.cross is not None:
            found += _normed(f"{at}cross_pre", layer.cross.pre, (f"{at}cross.wq",))
    found += _values(f"{at}attn", layer.attention)
    found += [] if layer.cross is None else _values(f"{at}cross", layer.cross)
    return found + _hidden(f"{at}mlp", layer.mlp)


def _normed(at: str, norm: Norm | None, read: tuple[str, ...]) -> list[SmoothingSite]:
    if norm is None or (isinstance(norm, LayerNorm) and not norm.weight):
        return []
    bias = [f"{at}.bias"] if isinstance(norm, LayerNorm) and norm.bias else []
    return [SmoothingSite((f"{at}.weight", *bias), read)]


def _values(at: str, a: Attention) -> list[SmoothingSite]:
    kept = [f"{at}.v_scale"] if a.kv == "int8" else []
    made = (f"{at}.wv", *([f"{at}.bv"] if a.qkv_bias else []), *kept)
    return [SmoothingSite(made, (f"{at}.wo",), a.heads // a.kv_heads, a.head_size)] if a.clip is None else []


def _experts(m: MoE) -> list[str]:
    return [f"experts.{i}" for i in range(m.experts)] + ([] if m.shared is None else ["shared"])


def _fed(at: str, mlp: Mlp) -> tuple[str, ...]:
    """The matrices that read an mlp's input."""
    match mlp:
        case MoE():
            inner = [f"{e}.{leaf}" for e in _experts(mlp) for leaf in ("gate", "up")]
            leaves = ["router", *inner, *(["shared_gate"] if mlp.shared_gate else [])]
        case Gated():
            leaves = ["gate", "up"]
        case Plain():
            leaves = ["up"]
    return tuple(at + leaf for leaf in leaves)


def _hidden(at: str, mlp: Mlp) -> list[SmoothingSite]:
    match mlp:
        case MoE():
            return [SmoothingSite((f"{at}.{e}.up",), (f"{at}.{e}.down",)) for e in _experts(mlp)]
        case Plain() if mlp.activation != "relu":
            return []
        case _:
            return [SmoothingSite((f"{at}.up", *([f"{at}.bup"] if mlp.bias else [])), (f"{at}.down",))]


def largest(state: Float[Array, " D"] | None, x: Float[Array, "M D"]) -> Float[Array, " D"]:
    """max |X_j| of each channel so far; NumericError for NaN or infinity."""
    found = np.abs(x).max(axis=0, initial=0)
    if not np.isfinite(found).all():
        raise NumericError("activations must be finite to be calibrated with, got NaN or infinity")
    return found if state is None else np.maximum(state, found)


def factors(
    activation: Float[Array, " D"], weight: Float[Array, " D"], *, alpha: float = 0.5
) -> Float[Array, " D"]:
    """s_j = max|X_j|^α / max|W_j|^(1−α) (Xiao et al. 2022, eq. 4): 1 smooths all, 0 equalizes weights.

    Conventions: W_j are row j of all matrices that read the activation; a channel that is 0 on
    either side has nothing to trade, and keeps the factor 1.
    """
    dead = (activation == 0) | (weight == 0)
    return np.where(dead, 1, activation**alpha / np.where(dead, 1, weight) ** (1 - alpha))


def powers(s: Float[Array, " D"]) -> Float[Array, " D"]:
    """The nearest powers of two, by ratio: with these every product and sum keeps its digits.

    The smoothed model then is the model, bit for bit, and what was done to a leaf can be read off it.
    """
    return np.exp2(np.rint(np.log2(s)))


def folded(
    place: SmoothingSite,
    activation: Float[Array, " D"],
    leaf: Callable[[str], Float[Array, "D F"]],
    *,
    alpha: float = 0.5,
) -> Float[Array, " D"]:
    """The factors of a place, one for each channel that is made: of those that share, the largest counts."""
    weight = np.max([np.abs(leaf(name)).max(axis=1) for name in place.read], axis=0)
    share = lambda a: a.reshape(-1, place.repeats, place.head_size).max(axis=1).reshape(-1)  # noqa: E731
    return factors(share(activation), share(weight), alpha=alpha)


def apply(name: str, leaf: Array, found: Mapping[SmoothingSite, Float[Array, " D"]]) -> Array:
    """The leaf of that name in the smoothed model; all factors are those of the model as it was."""
    for place, s in found.items():
        if name in place.made:
            # A value's channels stand in two axes where they are scales of the cache.
            leaf = leaf / s.astype(leaf.dtype).reshape(leaf.shape if leaf.size == s.size else -1)
        if name in place.read:
            spread = np.repeat(s.reshape(-1, place.head_size), place.repeats, axis=0).reshape(-1, 1)
            leaf = leaf * spread.astype(leaf.dtype)
    return leaf
