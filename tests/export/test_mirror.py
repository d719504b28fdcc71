"""Each public function of refimpl/ops has its mirror in export/ops: name, signature, values, graph."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import declare
import numpy as np
import pytest
import torch
from declare import Call, Function, Variant, flat
from exported import FIXED, FREE, TRACED, Graph, export
from hypothesis import example, given
from tfm.export import ops as mirror_ops
from tfm.export.engine import tensors
from tfm.export.ops.quant import Blocks as TorchBlocks
from tfm.refimpl import ops
from tfm.refimpl.ops.quant import Blocks
from tolerances import FINE, approximate, budgets, cast, compare, expected

FUNCTIONS = declare.functions()
# Functions with an activation, whose kernels approximate (tolerances.APPROXIMATE).
ACTIVATIONS = ("activation.silu", "activation.gelu", "activation.gelu_tanh", "activation.activation")
MLPS = ("mlp.plain_mlp", "mlp.gated_mlp")


def mirror(name: str) -> Any:
    module, function = name.split(".")
    return getattr(getattr(mirror_ops, module), function)


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
    else:
        extra = 0.0
    return {n: b + extra for n, b in found.items()}


def test_discovery_finds_the_functions():
    """Pairing by name is worth something only if it found the files and names that are there."""
    assert len(FUNCTIONS) >= 28
    assert {m.__name__.rsplit(".", 1)[-1] for m in declare.modules(ops)} >= {
        "linear", "embedding", "norm", "activation", "position", "mask",
        "cache", "attention", "mlp", "quant", "block", "model",
    }  # fmt: skip


def test_same_files_and_names():
    spec, mirrored = declare.modules(ops), declare.modules(mirror_ops)
    short = [m.__name__.rsplit(".", 1)[-1] for m in spec]
    assert [m.__name__.rsplit(".", 1)[-1] for m in mirrored] == short
    for a, b in zip(spec, mirrored, strict=True):
        assert b.__all__ == a.__all__, f"{b.__name__}.__all__ is {b.__all__}, the spec's {a.__all__}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_same_signature(name: str):
    assert declare.read(mirror(name)).signature == FUNCTIONS[name].signature


def test_same_blocks():
    describe = lambda kind: [(f.name, str(f.type)) for f in fields(kind)]  # noqa: E731
    assert describe(TorchBlocks) == describe(Blocks)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_declared_results(name: str):
    """The spec's results have the declared shapes and types, in both precisions."""
    f = FUNCTIONS[name]

    @given(declare.calls(f))
    def check(call: Call) -> None:
        for dtype in (np.float32, np.float64):
            typed = Call({n: cast(a, dtype) for n, a in call.arrays.items()}, call.settings, call.sizes)
            declare.check_result(f, typed, typed.run(f.body))

    check()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values(name: str):
    """The mirror in float64, then in float32, over all variants."""
    f, g = FUNCTIONS[name], mirror(name)

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


def graphs() -> list[Any]:
    """One graph a function and variant; opset 21 and 23 take turns, each function sees both."""
    found = []
    for name, f in FUNCTIONS.items():
        variants = declare.pairwise(declare.factors(f))
        if len(variants) == 1:
            variants = variants * 2
        for i, variant in enumerate(variants):
            found.append(pytest.param(name, variant, (21, 23)[i % 2], id=f"{name}-{i}"))
    return found


def parts(call: Call, f: Function) -> dict[str, tuple[Any, tuple[str, ...]]]:
    """The arrays of a call as graph inputs: quantized weights give one input a field."""
    found: dict[str, tuple[Any, tuple[str, ...]]] = {}
    for p in f.parameters:
        given = call.arrays.get(p.name)
        if isinstance(given, Blocks):
            held = {n.removeprefix("out."): a for n, a in flat(given)}
            found |= {f"{p.name}.{n}": (a, ("fixed",) * a.ndim) for n, a in held.items()}
        elif given is not None:
            declared = next(o for o in p.options if isinstance(o, declare.Declared))
            found[p.name] = given, declared.dims
    return found


def graph(f: Function, function: Any, call: Call, opset: int) -> Graph:
    """The function exported for the variant that a call stands for."""
    inputs = parts(call, f)

    def rebuilt(*given: torch.Tensor) -> list[torch.Tensor]:
        named = dict(zip(inputs, given, strict=True))

        def one(name: str, value: Any) -> Any:
            if not isinstance(value, Blocks):
                return named.get(name)
            statics = {x.name: getattr(value, x.name) for x in fields(value)}
            return TorchBlocks(**{n: named.get(f"{name}.{n}", v) for n, v in statics.items()})

        result = function(*(one(n, a) for n, a in call.arrays.items()), **call.settings)
        return [a for _, a in flat(result)]

    return export(rebuilt, inputs, opset)


@pytest.mark.parametrize(("name", "variant", "opset"), graphs())
def test_graph(name: str, variant: Variant, opset: int):
    """The mirror as a graph on ONNX Runtime; one token (T = 1) always, other shapes as drawn."""
    f = FUNCTIONS[name]
    fixed = {k: v for k, v in FIXED.items() if k not in FREE}
    traced = declare.sizes(f.letters, {**FIXED, **TRACED}.__getitem__)
    model = graph(f, mirror(name), declare.make(f, variant, traced, 0, 1.0), opset)
    one = declare.sizes(f.letters, {**FIXED, **TRACED, "T": 1, "B": 1}.__getitem__)

    @given(declare.calls(f, variant, fixed))
    @example(declare.make(f, variant, one, 1, 1.0))
    def check(call: Call) -> None:
        got = model(*(a for a, _ in parts(call, f).values()))
        wanted = expected(lambda change: call.run(f.body, change), np.float32)
        compare(name, dict(zip(wanted, got, strict=True)), wanted, budget(name, f, call))

    check()
