"""An op's two bodies, NumPy's and PyTorch's: the same draws, the computed budget, three legs."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
import torch
from hypothesis import example, given, settings
from tfm.export.dispatch import on_torch
from tfm.export.torch_bodies import TORCH
from tfm.export.torch_engine import tensors
from tfm.refimpl import laws
from tfm.refimpl.config.record import Record, kinds
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
from tfm.refimpl.ops import dispatch
from tfm.refimpl.ops.dispatch import OPS, op
from tfm.refimpl.ops.quant import Blocks

from helpers.onnx_graph import FIXED, FREE, TRACED, Graph, export

OF_PARTS = {kind.op for kind in kinds(Record) if getattr(kind, "op", None) is not None}


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


class Source(NamedTuple):
    """The syntax tree of a function, or of a module, and what its names stand for."""

    tree: ast.AST
    names: dict[str, Any]

    def ops(self) -> set[str]:
        """The ops that it names, or looks up by the names that a Config's parts have."""
        named = {name for name in self._used() & OPS.keys() if self.names.get(name) is OPS[name]}
        return named | (OF_PARTS if "OPS" in self._used() else set())

    def functions(self) -> Iterator[FunctionType]:
        """The plain functions of this project that it names."""
        for name in self._used():
            match self.names.get(name):
                case FunctionType(__module__=module) as other if module.startswith("tfm."):
                    if other not in (op, *OPS.values()):
                        yield other

    def _used(self) -> set[str]:
        return {node.id for node in ast.walk(self.tree) if isinstance(node, ast.Name)}


def sources(function: Callable[..., Any], seen: set[Callable[..., Any]] | None = None) -> Iterator[Source]:
    """The source of a function and of the plain functions that it calls, without those of ops."""
    seen = set() if seen is None else seen
    if function in seen:
        return
    seen.add(function)
    source = Source(ast.parse(textwrap.dedent(inspect.getsource(function))), function.__globals__)
    yield source
    for other in source.functions():
        yield from sources(other, seen)


@functools.cache
def is_composite(name: str) -> bool:
    """Does the specification's body of an op do without NumPy?"""
    return not any(
        isinstance(node, ast.Name) and node.id in ("np", "numpy")
        for source in sources(dispatch.body(OPS[name]))
        for node in ast.walk(source.tree)
    )


@functools.cache
def called(name: str) -> frozenset[str]:
    """The ops that an op's body over tensors calls."""
    body = TORCH.get(name) or dispatch.body(OPS[name])
    return frozenset().union(*(source.ops() for source in sources(body))) - {name}


def reached(names: Iterable[str]) -> set[str]:
    """These ops, and all that run over tensors when they do."""
    found: set[str] = set()
    left = list(names)
    while left:
        if (name := left.pop()) not in found:
            found.add(name)
            left += called(name)
    return found


def runs_over_tensors(name: str) -> bool:
    """Has an op, and each that it calls, a body for tensors?"""
    return all(other in TORCH or is_composite(other) for other in reached([name]))


def over_both() -> list[str]:
    """The functions that laws draw inputs for, as `module.name`, that run over tensors too."""
    return [name for name in specified() if runs_over_tensors(name.split(".")[1])]


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
    few = settings.default.max_examples // 3  # pyright: ignore[reportOptionalMemberAccess]
    # Codes differ only at ties, so rounding needs many draws.
    for dtype, draws in ((np.float64, few), (np.float32, few * 6 if name.startswith("quant.") else few)):
        short = name.split(".")[1]
        laws.check(
            short, over_tensors(g), dtype=dtype, arrays=tensor, quantized=True, only=EQUALS, examples=draws
        )


def check_graph(name: str, g: Callable[..., Any], variant: Variant, opset: int) -> None:
    """NumPy against the graph of PyTorch's body on ONNX Runtime; one token (T = 1) always, else as drawn.

    A few draws: the values of the body are compared by `check_values`.
    """
    f = declared(name)
    fixed = {k: v for k, v in FIXED.items() if k not in FREE}
    traced = sizes(f.letters, {**FIXED, **TRACED}.__getitem__)
    model = graph(f, g, make(f, variant, traced, 0, 1.0), opset)
    one = sizes(f.letters, {**FIXED, **TRACED, "T": 1, "B": 1}.__getitem__)

    @settings(max_examples=settings.default.max_examples // 10)  # pyright: ignore[reportOptionalMemberAccess]
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
