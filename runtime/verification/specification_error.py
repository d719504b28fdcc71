"""How far the specification's outputs over a text are off by rounding, where the golden arrays don't know.

The golden budgets are of a few tokens. A longer text may hold some at which a saturated attention ties
nearly: there the last digits decide, and outputs move by far more. So where a figure over a text exceeds
its budget, the same terms are measured over that text, with the specification alone.
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
    """4 · (A + J), or `budget` where that is larger.

    A is the figure of the specification in float64, J the largest of three tries in which its table of
    embeddings moves by an ulp. The figure is a distance of outputs; products with blocks are in float.
    """

    def changed(change: Callable[[str, Leaf], Leaf]) -> NumpyEngine:
        return NumpyEngine(specification.config, changed_lazily(specification.params, change))

    def move(seed: int) -> Callable[[str, Leaf], Leaf]:
        def change(name: str, weight: Leaf) -> Leaf:
            if name != "embedding.table":
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
    """The budget of a KL divergence, where `budget` is that of the logits.

    A divergence grows with the square of the logits' differences, so its root is the distance.
    """
    own = budget_over_text(specification, 0.0, lambda engine: kl(engine) ** 0.5) ** 2
    return max(kl_budget(budget), own)
