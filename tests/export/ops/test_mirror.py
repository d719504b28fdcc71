"""Each op gives the same with both bodies, and as a graph."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.mirror import (
    called,
    check_graph,
    check_values,
    declared,
    is_composite,
    over_both,
    over_tensors,
    reached,
    variants_of,
)
from hypothesis import given, settings
from tfm.refimpl import ops
from tfm.refimpl.laws import Call
from tfm.refimpl.laws.kit.budget import cast
from tfm.refimpl.laws.kit.declare import modules, specified
from tfm.refimpl.laws.kit.draw import Variant, calls
from tfm.refimpl.laws.kit.results import check_result
from tfm.refimpl.ops.static_quant import static_quantize

FUNCTIONS = list(specified())
OVER_BOTH = over_both()


def graphs() -> list[Any]:
    """One graph for each function and variant, by default of the first; opsets 21 and 23 take turns.

    Of a composite the first variant alone: the others call other primitives, whose graphs are here. By
    default no composite that another function calls: that function's graph has it.
    """
    cases = [(name, i, variant) for name in OVER_BOTH for i, variant in enumerate(variants_of(name))]
    inner = set[str]().union(*(reached(called(name.split(".")[1])) for name in OVER_BOTH))
    results = []
    for turn, (name, i, variant) in enumerate(cases):
        short = name.split(".")[1]
        if i == 0 or not is_composite(short):
            marks = [pytest.mark.long] * (i > 0 or (is_composite(short) and short in inner))
            results.append(pytest.param(name, variant, (21, 23)[turn % 2], id=f"{name}-{i}", marks=marks))
    return results


def test_discovery_finds_the_functions():
    """Pairing by name must find the files and names that exist."""
    assert len(FUNCTIONS) >= 28
    assert {m.__name__.rsplit(".", 1)[-1] for m in modules(ops)} >= {
        "linear", "embedding", "norm", "activation", "position", "mask",
        "cache", "attention", "mlp", "quant", "block", "model",
    }  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_declared_results(name: str):
    """The spec's results have the declared shapes and types, in both precisions."""
    f = declared(name)

    @settings(max_examples=settings.default.max_examples // 4)  # pyright: ignore[reportOptionalMemberAccess]
    @given(calls(f))
    def check(call: Call) -> None:
        for dtype in (np.float32, np.float64):
            typed = replace(call, arrays=cast(call.arrays, dtype))
            check_result(f, typed, typed.run(f.body))

    check()


@pytest.mark.parametrize("name", OVER_BOTH)
def test_values(name: str):
    check_values(name, specified()[name])


def test_static_quantize_gives_the_zero_point_where_a_scale_is_0():
    x, scale, zero = np.ones((2, 5)), np.array([0, 0.5, 0, 1, 0]), np.arange(5)
    given_, kept = (x, scale, zero), {"bits": 4, "signed": False}
    assert (static_quantize(*given_, **kept) == [0, 3, 2, 4, 4]).all()
    over_torch = over_tensors(static_quantize)
    assert (over_torch(*map(torch.from_numpy, given_), **kept).numpy() == [0, 3, 2, 4, 4]).all()


@pytest.mark.parametrize(("name", "variant", "opset"), graphs())
def test_graph(name: str, variant: Variant, opset: int):
    check_graph(name, specified()[name], variant, opset)
