"""A function of refimpl/ops against its mirror: the same draws, the computed budget, three legs."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import declare
import numpy as np
import torch
from declare import Call, Function, Variant, flat
from exported import FIXED, FREE, TRACED, Graph, export
from hypothesis import example, given, settings
from tfm.export import ops as mirror_ops
from tfm.export.engine import tensors
from tfm.export.ops.quant import Blocks as TorchBlocks
from tfm.refimpl.ops.quant import Blocks
from tolerances import APPROXIMATE, FINE, approximate, budgets, cast, compare, expected, largest

FUNCTIONS = declare.functions()
# Functions with an activation, whose kernels approximate (tolerances.APPROXIMATE).
ACTIVATIONS = tuple(f"activation.{n}" for n in ("sigmoid", "silu", "gelu", "gelu_tanh", "activation"))
MLPS = ("mlp.plain_mlp", "mlp.gated_mlp")


def mirror(name: str) -> Any:
    """The function of export/ops with that `module.name`."""
    module, function = name.split(".")
    return getattr(importlib.import_module(f"{mirror_ops.__name__}.{module}"), function)


def tensor(value: Any) -> Any:
    return tensors(value) if isinstance(value, np.ndarray | Blocks) else value


def budget(name: str, f: Function, call: Call) -> dict[str, float]:
    """The computed budget, and what this function's kernels approximate."""
    found = budgets(lambda change: call.run(f.body, change))
    if name in ACTIVATIONS:
        extra = approximate(lambda change: change(call.arrays["x"]))
    elif name in MLPS:
        relu = Call(call.arrays, {"kind": "relu"}, call.sizes)
        extra = approximate(lambda change: relu.run(f.body, change))
    elif name.startswith("lstm."):
        # Four gates, each off by as much as a sigmoid of 1, times what they let through.
        reach = max(1.0, *(largest(a) for _, a in flat(call.run(f.body))))
        extra = 4 * APPROXIMATE * reach
    else:
        extra = 0.0
    return {n: b + extra for n, b in found.items()}


def check_values(name: str, f: Function, g: Callable[..., Any]) -> None:
    """Spec against mirror in float64, then in float32, over all variants."""

    # Codes differ only at ties, so rounding needs many draws.
    draws = settings.default.max_examples * (6 if name.startswith("quant.") else 1)  # pyright: ignore

    @settings(max_examples=draws)
    @given(declare.calls(f))
    def check(call: Call) -> None:
        allowed = budget(name, f, call)
        for dtype, share in ((np.float64, FINE), (np.float32, 1.0)):
            got = dict(flat(call.run(g, lambda a, dtype=dtype: tensor(cast(a, dtype)))))
            typed = dict(flat(call.run(f.body, lambda a, dtype=dtype: cast(a, dtype))))
            for n, a in got.items():
                assert a.numpy().dtype == typed[n].dtype, f"{name} {n}: {a.dtype}, spec {typed[n].dtype}"
            wanted = expected(lambda change: call.run(f.body, change), dtype)
            compare(f"{name} {dtype.__name__}", got, wanted, allowed, share)

    check()


def check_graph(name: str, f: Function, g: Callable[..., Any], variant: Variant, opset: int) -> None:
    """Spec against the mirror's graph on ONNX Runtime; one token (T = 1) always, else as drawn."""
    fixed = {k: v for k, v in FIXED.items() if k not in FREE}
    traced = declare.sizes(f.letters, {**FIXED, **TRACED}.__getitem__)
    model = graph(f, g, declare.make(f, variant, traced, 0, 1.0), opset)
    one = declare.sizes(f.letters, {**FIXED, **TRACED, "T": 1, "B": 1}.__getitem__)

    @given(declare.calls(f, variant, fixed))
    @example(declare.make(f, variant, one, 1, 1.0))
    def check(call: Call) -> None:
        got = model(*(a for a, _ in parts(call, f).values()))
        wanted = expected(lambda change: call.run(f.body, change), np.float32)
        compare(name, dict(zip(wanted, got, strict=True)), wanted, budget(name, f, call))

    check()


def parts(call: Call, f: Function) -> dict[str, tuple[Any, tuple[str, ...]]]:
    """The arrays of a call as graph inputs: quantized weights give one input a field."""
    found: dict[str, tuple[Any, tuple[str, ...]]] = {}
    for p in f.parameters:
        held = call.arrays.get(p.name)
        if isinstance(held, Blocks):
            fields_of = {n.removeprefix("out."): a for n, a in flat(held)}
            found |= {f"{p.name}.{n}": (a, ("fixed",) * a.ndim) for n, a in fields_of.items()}
        elif held is not None:
            declared = next(o for o in p.options if isinstance(o, declare.Declared))
            found[p.name] = held, declared.dims
    return found


def graph(f: Function, function: Callable[..., Any], call: Call, opset: int) -> Graph:
    """The function exported for the variant that a call stands for."""
    inputs = parts(call, f)

    def rebuilt(*held: torch.Tensor) -> list[torch.Tensor]:
        named = dict(zip(inputs, held, strict=True))

        def one(name: str, value: Any) -> Any:
            if not isinstance(value, Blocks):
                return named.get(name)
            statics = {x.name: getattr(value, x.name) for x in fields(value)}
            return TorchBlocks(**{n: named.get(f"{name}.{n}", v) for n, v in statics.items()})

        result = function(*(one(n, a) for n, a in call.arrays.items()), **call.settings)
        return [a for _, a in flat(result)]

    return export(rebuilt, inputs, opset)
