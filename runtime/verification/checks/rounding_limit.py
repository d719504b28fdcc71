"""How far predictions over a text may lie from a reference's, where weights are in few bits.

The golden tokens' budget bounds logits, so its bound of a KL divergence is above that of any model. Over the
text itself the specification says more: with the same weights it computes products in float too.

    limit = (√D + 2·√N + √F)²
    D = KL(reference ‖ products in float)          what the weights' rounding costs; N without a source
    N = KL(specification ‖ products in float)      what the rounding of products' inputs costs
    F = the bound of `kl_budget` for products in float, or 0 where N is larger anyway

A root of a KL divergence is a distance as long as it is small, so distances add. A right engine is as far
from products in float as the specification is, at 1 root of N, since both round the same numbers: which codes
flip differs. Measured roots are 1.00 for tiny models of 44 families, and 1.07 for SmolLM2 in int8. Weights
that differ in the last digit had 1.7 in the least steady model that is known (Gemma 3 270M without the token
that its texts begin with): hence 2.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ....refimpl.config import Config
from ....refimpl.engine.numpy_engine import NumpyEngine
from ....refimpl.error_budget import kl_budget
from ....refimpl.ops.quant import Blocks
from ....refimpl.params.parameter_shapes import ParameterShapes
from ...bundle.bundle import Bundle
from ..golden import Golden
from ..metrics import Pair
from .context import VerifyContext

if TYPE_CHECKING:
    from numpy import ndarray as Array

ROUNDINGS = 2  # roots of N
# Names of engines: what predictions are compared with, the specification over the bundle's weights, and the
# same with products in float.
REFERENCE, SPECIFICATION, FLOATS = "reference", "specification", "products in float"


def float_products(bundle: Bundle, config: Config | None = None) -> NumpyEngine:
    """The specification over the bundle's weights with products in float: no input of one is rounded."""

    def load(name: str) -> Array | Blocks:
        leaf = bundle.leaf(name)
        return replace(leaf, activations="none") if isinstance(leaf, Blocks) else leaf

    shapes = bundle.plan.shapes if config is None else ParameterShapes(config)
    return NumpyEngine(shapes.config, shapes.lazily(load))


def yardsticks(context: VerifyContext, reference: NumpyEngine) -> dict[str, NumpyEngine]:
    """The reference and, for weights in few bits, the engines that the limit is made of."""
    bundle = context.bundle
    if not bundle.manifest.schemes:
        return {REFERENCE: reference}
    engines = {REFERENCE: reference, FLOATS: float_products(bundle)}
    if context.source is None:
        return engines
    return {**engines, SPECIFICATION: NumpyEngine(bundle.config, bundle.params())}


def pairs(engines: Collection[str]) -> list[Pair]:
    """Those of the yardsticks whose KL divergences the limit is made of."""
    return [(name, FLOATS) for name in (REFERENCE, SPECIFICATION) if name in engines and FLOATS in engines]


def rounding_limit(kls: Mapping[Pair, float], golden: Golden) -> float:
    """The largest KL divergence from the reference that rounding explains, in nats a token."""
    weights = kls[REFERENCE, FLOATS]
    inputs = kls.get((SPECIFICATION, FLOATS), weights)
    sharp = golden.own if golden.plain is None and inputs == 0 else golden.plain
    floats = 0.0 if sharp is None else kl_budget(sharp.budget)
    return (weights**0.5 + ROUNDINGS * inputs**0.5 + floats**0.5) ** 2
