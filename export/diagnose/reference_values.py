"""Compute the values at which a decoder's graph is cut, and a budget for the error of each value. Each value
is computed from the values before it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...refimpl.config import Config
from ...refimpl.engine.passes import Text, given, read
from ...refimpl.error_budget import CODE_MOVE, TRIES, error_terms, moved
from ...refimpl.ops import block as blocks
from ...refimpl.ops.attention import cached_attention
from ...refimpl.ops.dispatch import body, use
from ...refimpl.ops.quant import Blocks
from ...refimpl.params.lazy import changed_lazily
from ...refimpl.params.tree import Tree
from ...runtime.verification.streamed_reference import SEED, Precision

Array = np.ndarray
Change = Callable[[str, Array], Array]  # a value, by its name, to another one
# Arguments and settings of a call of `cached_attention`, and what it gave.
AttentionCall = tuple[tuple[Any, ...], dict[str, Any], Array]

SINGLE = Precision(np.dtype(np.float32))
DOUBLE = Precision(np.dtype(np.float64))


@dataclass
class Reference:
    """The specification's values by name, in the order of a forward pass, with a budget for the error of
    each. `attentions` contains the call of attention in each layer.
    """

    values: dict[str, Array] = field(default_factory=dict)
    budgets: dict[str, float] = field(default_factory=dict)
    attentions: dict[int, AttentionCall] = field(default_factory=dict)


def reference_values(
    config: Config, params: Tree, tokens: Array, wanted: Collection[str], dtype: np.dtype
) -> Reference:
    """Return the values named in `wanted` and the logits, as the specification computes them for the tokens
    [B, T], and a budget for the error of each value.

    A value is computed from the values before it, which are rounded to `dtype`. So errors don't accumulate.
    Equal numbers round to equal codes. So even quantized models must stay within budgets of floating-point
    rounding.

    The budgets are computed without rounding activations to codes, except for products that round their
    outputs. Such products round sums whose last digits differ between implementations.
    """
    reference, eps = Reference(), float(np.finfo(dtype).eps)
    values, rounds, codes = reference.values, dict[str, bool](), False

    def run(dtype: np.dtype, on_value: Change, on_leaf: Callable[[str, Any], Precision]) -> None:
        layer, within = -1, ""

        def block(*arguments: Any, **settings: Any) -> Any:
            nonlocal layer, within
            layer, within = layer + 1, f"layer {layer + 1}, "
            result = body(blocks.block)(*arguments, **settings)
            within = ""
            return result

        def observe(name: str, x: Array) -> Array:
            return on_value(within + name, x) if within + name in wanted else x

        def attend(*arguments: Any, **settings: Any) -> Any:
            y, cache = body(cached_attention)(*arguments, **settings)
            reference.attentions.setdefault(layer, (arguments, settings, y))
            return y, cache

        taken = given(Text(tokens, np.full(len(tokens), tokens.shape[1])), dtype, config=config)
        with use({"observe": observe, "block": block, "cached_attention": attend}):
            leaves = changed_lazily(params, lambda name, value: on_leaf(name, value).cast(value))
            logits = read(taken, leaves, config=config)
        on_value("logits", logits)

    def first(name: str, x: Array) -> Array:
        nonlocal codes
        values[name], rounds[name], codes = x.astype(dtype), codes, False
        return values[name].astype(np.float32)

    def with_codes(name: str, leaf: Any) -> Precision:
        nonlocal codes
        codes = codes or rounds_output(leaf) or name.endswith("k_scale")
        return SINGLE

    def compared(precision: Precision, change: Change) -> dict[str, Array]:
        found: dict[str, Array] = {}

        def noted(name: str, x: Array) -> Array:
            found[name] = x
            return change(name, values[name].astype(precision.dtype))

        plain = replace(precision, plain=True)
        run(precision.dtype, noted, lambda _, leaf: precision if rounds_output(leaf) else plain)
        return found

    run(SINGLE.dtype, first, with_codes)
    following, rng = dict(zip(values, [*values][1:], strict=False)), np.random.default_rng(SEED)

    def nearby(name: str, x: Array) -> Array:
        return moved(x, CODE_MOVE if rounds.get(following.get(name, "")) else eps, rng)

    exact, rounded = (compared(precision, lambda _, x: x) for precision in (DOUBLE, SINGLE))
    tries = [compared(DOUBLE, nearby) for _ in range(TRIES)]
    for name in values:
        terms = error_terms(exact[name], rounded[name], [one[name] for one in tries], eps=eps)
        reference.budgets[name] = terms.budget
    return reference


def rounds_output(leaf: Any) -> bool:
    """Return whether a product with this parameter rounds its result to codes."""
    return isinstance(leaf, Blocks) and leaf.output_scale is not None
