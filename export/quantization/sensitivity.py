"""Measure the loss of a model over rows of tokens if only some of its weights are rounded.

A unit's loss is measured, not estimated: for each unit, the model reads the rows once more, with that unit's
weights rounded and all other weights unchanged.

All these passes go through the model side by side with a first pass, in which nothing is rounded. A pass
shares the values of the first pass until it reaches its unit. So a pass computes half of the layers on
average, each weight is loaded and rounded once, and memory contains only one layer's weights and the vectors
of each pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_limits

from ...refimpl.checkpoint.protocol import WeightSource
from ...refimpl.engine.passes import OnLayer, Pass, SideBySide, Text, given
from ...refimpl.ops.dispatch import OPS, body, use
from ...runtime.parallel import in_threads
from ...runtime.verification.metrics import kl_divergence, log_softmax

if TYPE_CHECKING:
    from jaxtyping import Int
    from numpy import ndarray as Array

# What a unit has in the place of its leaves, made when it is asked for.
Changed = Mapping[str, Callable[[], Any]]
# The ops that give what is compared: logits of a decoder, what an encoder's head makes of it.
OUTPUTS = ("lm_logits", "adaptive_log_probs", "predict")


def losses(
    source: WeightSource, text: Int[Array, "R T"], units: Mapping[str, Changed], on_layer: OnLayer
) -> dict[str, float]:
    """Return the loss of the model over the rows of a text for each unit, if only this unit is changed.

    If the model predicts tokens, the loss is a KL divergence in nats per token. Otherwise, it is Σ|y − ŷ|² /
    Σ|y|² of the outputs y. The loss of a unit that no token reaches, such as an unused expert, is 0. The sums
    don't depend on how many threads the machine has.
    """
    config, changed = source.config, [{}, *units.values()]
    asked: set[str] = set()
    apart: set[int] = set()
    found = np.zeros(len(changed))
    truth: list[Array] = []

    def each(function: Callable[[int], Any], numbers: range) -> list[Any]:
        """Call a function for the first pass, and for the passes that have reached their unit. All other
        passes get the first pass's result.
        """
        asked.clear()
        first = function(0)
        apart.update(i for i in numbers if not asked.isdisjoint(changed[i]))
        return [first, *in_threads(lambda i: function(i) if i in apart else first, numbers[1:])]

    together = SideBySide(config, each)

    def leaf(number: int, name: str) -> Any:
        if number == 0:
            asked.add(name)
        if name in changed[number]:
            return together.once(f"{number} {name}", changed[number][name])
        return together.once(name, lambda: source.leaf(name))

    def compared(number: int, op: str, *args: Any, **settings: Any) -> Any:
        y = body(OPS[op])(*args, **settings)
        rows = y.reshape(-1, y.shape[-1])
        if number == 0:
            truth[:] = [log_softmax(rows) if config.head.predicts_tokens else rows.astype(np.float64)]
        elif config.head.predicts_tokens:
            found[number] = kl_divergence(truth[0], log_softmax(rows)) / len(rows)
        else:
            found[number] = float(np.square(rows - truth[0]).sum() / np.square(truth[0]).sum())
        return y[..., :1]  # all logits of all passes would be too many to keep

    def one_pass(number: int) -> Pass:
        @contextmanager
        def inside() -> Iterator[None]:
            with use({op: lambda *a, op=op, **s: compared(number, op, *a, **s) for op in OUTPUTS}):
                yield

        return Pass(taken, lambda name: leaf(number, name), inside)

    taken = given(Text(text, np.full(len(text), text.shape[1])), np.dtype(np.float32), config=config)
    with threadpool_limits(1, "blas"):
        together.run([one_pass(i) for i in range(len(changed))], on_layer)
    return dict(zip(units, found[1:].tolist(), strict=True))
