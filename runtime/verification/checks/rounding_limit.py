"""Limit how far predictions over a text may be from a reference's, for weights in few bits.

The budget of the golden tokens limits logits. The limit that follows for a KL divergence is too loose: every
model is below it. The specification gives a sharper limit over the text itself, because it can also compute
products in float with the same weights.

    limit = (√D + 2·√N + √F)²
    D = KL(reference ‖ products in float)          what the weights' rounding costs; N without a source
    N = KL(specification ‖ products in float)      what the rounding of products' inputs costs
    F = the bound of `kl_budget` for products in float, or 0 if no such bound is stored and N is larger

The root of a small KL divergence is a distance, so roots add. Both a correct engine and the specification
round the same numbers, but some numbers get different codes. So a correct engine is about √N away from
products in float, as the specification is. Measured distances are 1.00 √N for tiny models of 44 families, and
1.07 √N for SmolLM2 in int8. In the least stable known model, weights that differ in the last digit gave 1.7
√N (Gemma 3 270M without the token that its texts begin with). So the limit uses 2 √N.
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
    """Return the specification over the bundle's weights, with products in floating point that don't round
    their inputs.
    """

    def load(name: str) -> Array | Blocks:
        leaf = bundle.leaf(name)
        return replace(leaf, activations="none") if isinstance(leaf, Blocks) else leaf

    shapes = bundle.plan.shapes if config is None else ParameterShapes(config)
    return NumpyEngine(shapes.config, shapes.lazily(load))


def yardsticks(context: VerifyContext, reference: NumpyEngine) -> dict[str, NumpyEngine]:
    """Return the engines from which `rounding_limit` is computed, by name: the reference and, for weights in
    few bits, further engines.
    """
    bundle = context.bundle
    if not bundle.manifest.schemes:
        return {REFERENCE: reference}
    engines = {REFERENCE: reference, FLOATS: float_products(bundle)}
    if context.source is None:
        return engines
    return {**engines, SPECIFICATION: NumpyEngine(bundle.config, bundle.params())}


def pairs(engines: Collection[str]) -> list[Pair]:
    """Return the pairs of engines with the KL divergences that `rounding_limit` needs. `engines` are the
    names that `yardsticks` returns.
    """
    return [(name, FLOATS) for name in (REFERENCE, SPECIFICATION) if name in engines and FLOATS in engines]


def rounding_limit(kls: Mapping[Pair, float], golden: Golden) -> float:
    """Return the largest KL divergence from the reference that rounding can explain, in nats a token.

    `kls` are the KL divergences of the `pairs`.
    """
    weights = kls[REFERENCE, FLOATS]
    inputs = kls.get((SPECIFICATION, FLOATS), weights)
    sharp = golden.own if golden.plain is None and inputs == 0 else golden.plain
    floats = 0.0 if sharp is None else kl_budget(sharp.budget)
    return (weights**0.5 + ROUNDINGS * inputs**0.5 + floats**0.5) ** 2
