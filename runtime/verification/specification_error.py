"""Measure how far rounding moves the specification's outputs over a text longer than the golden tokens.

The golden budgets are measured over a few tokens. A longer text may have tokens at which a saturated
attention is nearly tied. At such tokens the last digits decide, and rounding changes outputs by far more. So
if an error over a longer text exceeds its budget, each term of the budget is measured again over this text.
Only the specification runs for this.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ...refimpl.engine.numpy_engine import NumpyEngine
from ...refimpl.engine.protocol import Engine
from ...refimpl.error_budget import TRIES, ULP, ErrorTerms, kl_budget, moved
from ...refimpl.ops.quant import Blocks
from ...refimpl.params.lazy import changed_lazily
from .streamed_reference import SEED, Precision

if TYPE_CHECKING:
    from .streamed_reference import Leaf

# Another engine's figure against the specification in float32, over the text.
Figure = Callable[[Engine], float]
DOUBLE = Precision(np.dtype(np.float64))


def budget_over_text(specification: NumpyEngine, budget: float, figure: Figure) -> float:
    """Return the error budget of a figure over a text, 4 · (A + J), or `budget` if that is larger.

    `figure` computes the distance between an engine's outputs and the specification's, with products of
    blocks in floating point. A is the figure for the specification in float64. J is the largest figure of
    three tries in which the numbers of the embedding tables are moved by an ulp.
    """

    def changed(change: Callable[[str, Leaf], Leaf]) -> NumpyEngine:
        return NumpyEngine(specification.config, changed_lazily(specification.params, change))

    def move(seed: int) -> Callable[[str, Leaf], Leaf]:
        def change(name: str, weight: Leaf) -> Leaf:
            if not name.endswith("embedding.table"):
                return weight
            rng = np.random.default_rng([SEED, seed])
            if isinstance(weight, Blocks):
                return replace(weight, scale=moved(weight.scale, ULP, rng))
            return moved(weight, ULP, rng)

        return change

    rounding = figure(changed(lambda _, weight: DOUBLE.cast(weight)))
    jump = max(figure(changed(move(seed))) for seed in range(TRIES))
    return max(budget, ErrorTerms(rounding, jump, 0.0).budget)


def kl_budget_over_text(specification: NumpyEngine, budget: float, kl: Figure) -> float:
    """Return the largest allowed KL divergence over a text. `budget` is the error budget of the logits.

    A divergence grows with the square of the logits' differences, so the root of the divergence is used as
    the distance.
    """
    own = budget_over_text(specification, 0.0, lambda engine: kl(engine) ** 0.5) ** 2
    return max(kl_budget(budget), own)
