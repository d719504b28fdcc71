"""An op's two bodies, NumPy's and PyTorch's: the same draws, the computed budget, three legs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from hypothesis import example, given, settings
from tfm.export.dispatch import on_torch
from tfm.export.torch_engine import tensors
from tfm.refimpl import laws
from tfm.refimpl.laws import Call
from tfm.refimpl.laws.kit.budget import budget, expected
from tfm.refimpl.laws.kit.checking import EQUALS
from tfm.refimpl.laws.kit.declare import (
    Function,
    Parameter,
    UnfedError,
    axes,
    mapped,
    read,
    sizes,
    specified,
    walk,
)
from tfm.refimpl.laws.kit.draw import Variant, calls, factors, make, singly
from tfm.refimpl.laws.kit.results import compare, flat
from tfm.refimpl.ops.quant import Blocks

from helpers.onnx_graph import FIXED, FREE, TRACED, Graph, export


def over_tensors(function: Callable[..., Any]) -> Callable[..., Any]:
    """An op, or a function of ops, with PyTorch's bodies."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with on_torch():
            return function(*args, **kwargs)

    return call


class OverTensors:
    """The functions of a module, or the methods of an object, with PyTorch's bodies."""

    def __init__(self, owner: object) -> None:
        self._owner = owner

    def __getattr__(self, name: str) -> Any:
        return over_tensors(getattr(self._owner, name))


def tensor(value: Any) -> Any:
    return tensors(value) if isinstance(value, np.ndarray | Blocks) else value


def declared(name: str) -> Function:
    """The declaration of the function of refimpl/ops with that `module.name`."""
    return read(specified()[name])


def variants_of(name: str) -> list[Variant]:
    """Each choice in one graph; pairs of choices are checked by values alone, since a graph takes seconds.

    Where nothing can be drawn, one variant that fails as a test.
    """
    try:
        choices = factors(declared(name))
        for kind in ("kind", "activation"):
            if name != "activation.activation" and kind in choices:
                choices[kind] = choices[kind][:3]  # its own graphs have each kind
        return singly(choices)
    except UnfedError:
        return [()]


def check_values(name: str, g: Callable[..., Any]) -> None:
    """NumPy against PyTorch in float64 and in float32, over all variants."""
    few = settings.default.max_examples  # pyright: ignore[reportOptionalMemberAccess]
    # Codes differ only at ties, so rounding needs many draws.
    for dtype, draws in ((np.float64, few), (np.float32, few * 6 if name.startswith("quant.") else few)):
        short = name.split(".")[1]
        laws.check(
            short, over_tensors(g), dtype=dtype, arrays=tensor, quantized=True, only=EQUALS, examples=draws
        )


def check_graph(name: str, g: Callable[..., Any], variant: Variant, opset: int) -> None:
    """NumPy against the graph of PyTorch's body on ONNX Runtime; one token (T = 1) always, else as drawn."""
    f = declared(name)
    fixed = {k: v for k, v in FIXED.items() if k not in FREE}
    traced = sizes(f.letters, {**FIXED, **TRACED}.__getitem__)
    model = graph(f, g, make(f, variant, traced, 0, 1.0), opset)
    one = sizes(f.letters, {**FIXED, **TRACED, "T": 1, "B": 1}.__getitem__)

    @settings(max_examples=settings.default.max_examples // 2)  # pyright: ignore[reportOptionalMemberAccess]
    @given(calls(f, variant, fixed))
    @example(make(f, variant, one, 1, 1.0))
    def check(call: Call) -> None:
        got = model(*(a for a, _ in parts(call, f).values()))
        wanted = expected(lambda change: call.run(f.body, change), np.float32)
        compare(name, dict(zip(wanted, got, strict=True)), wanted, budget(f, call))

    check()


def parts(call: Call, f: Function) -> dict[str, tuple[Any, tuple[str, ...]]]:
    """The arrays of a call as graph inputs: structures and quantized weights give one input a field."""
    results: dict[str, tuple[Any, tuple[str, ...]]] = {}
    for p in f.parameters:
        for name, leaf, array in walk(p, call.arrays.get(p.name)):
            if isinstance(array, Blocks):
                results |= {name + n.removeprefix("out"): (a, ("fixed",) * a.ndim) for n, a in flat(array)}
            elif not leaf.setting:
                results[name] = array, axes(leaf, array, call.sizes)
    return results


def graph(f: Function, function: Callable[..., Any], call: Call, opset: int) -> Graph:
    """The function exported for the variant that a call stands for."""
    inputs = parts(call, f)

    def rebuilt(*tensors: torch.Tensor) -> list[torch.Tensor]:
        named = dict(zip(inputs, tensors, strict=True))

        def one(name: str, leaf: Parameter, value: Any) -> Any:
            if not isinstance(value, Blocks):
                return value if leaf.setting else named[name]
            statics = {x.name: getattr(value, x.name) for x in fields(value)}
            return Blocks(**{n: named.get(f"{name}.{n}", v) for n, v in statics.items()})

        arrays = (mapped(p, call.arrays[p.name], one) for p in f.parameters if not p.setting)
        return [a for _, a in flat(over_tensors(function)(*arrays, **call.settings))]

    return export(rebuilt, inputs, opset)
