"""The test tools can fail: planted bugs are found, and what can't be tested is an error."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from helpers.mirror import check_graph, check_values, declared
from helpers.onnx_graph import export
from helpers.refused import refused
from tfm.refimpl.config import FullAttention
from tfm.refimpl.laws.kit.declare import Declared, UnfedError, read, sizes
from tfm.refimpl.laws.kit.draw import factors, make, singly
from tfm.refimpl.laws.kit.results import check_result
from tfm.refimpl.ops import (
    activation,
    attention,
    cache,
    mask,
    mlp,
    moe,
    norm,
    position,
    quant,
    self_attention,
)
from tfm.refimpl.ops.linear import linear


def eps_outside(x: Any, weight: Any, *, eps: float) -> Any:
    return x / (x.square().mean(-1, keepdim=True).sqrt() + eps) * weight


def unbiased(x: Any, weight: Any, bias: Any = None, *, eps: float) -> Any:
    if x.shape[-1] == 1:
        return norm.layer_norm(x, weight, bias, eps=eps)
    y = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + eps).sqrt() * weight
    return y if bias is None else y + bias


def wrong_axis(scores: Any, mask: Any = None) -> Any:
    return attention.softmax(scores.mT, None if mask is None else mask.mT).mT


def no_scale(q: Any, k: Any, v: Any, mask: Any = None, *, scale: Any = None, softcap: Any = None) -> Any:
    return attention.attend(q, k, v, mask, scale=1.0 if scale is None else scale, softcap=softcap)


def other_heads(q: Any, k: Any, mask: Any = None, *, scale: Any = None, softcap: Any = None) -> Any:
    """Query head h reads key head h % G instead of h // R."""
    k = k.repeat(1, 1, q.shape[2] // k.shape[2], 1)
    return attention.attention_weights(q, k, mask, scale=scale, softcap=softcap)


def no_sink(
    q: Any, k: Any, mask: Any = None, bias: Any = None, sink_logits: Any = None, *, scale: Any, softcap: Any
) -> Any:
    return attention.attention_weights(q, k, mask, bias, scale=scale, softcap=softcap)


def swiglu(gate: Any, up: Any, *, alpha: float, limit: float) -> Any:
    return mlp.swiglu_oai(gate, up - 1, alpha=alpha, limit=limit)


def no_router_bias(x: Any, weights: Any, *, settings: Any, capacity: Any = None) -> Any:
    fewer = {name: leaf for name, leaf in weights.items() if name != "router_bias"}
    return moe.moe(x, fewer, settings=settings, capacity=capacity)


def strictly_before(queries: Any, keys: Any, *, window: int | None = None) -> Any:
    return mask.causal_mask(queries - 1, keys, window=window)


def window_off_by_one(queries: Any, keys: Any, *, window: int | None = None) -> Any:
    return mask.causal_mask(queries, keys, window=None if window is None else window + 1)


def cache_off_by_one(past: Any, new: Any, start: Any) -> Any:
    return cache.append(past, new, (start + 1).clamp(max=past.shape[2] - new.shape[1]))


def other_pairs(x: Any, cos: Any, sin: Any, *, interleaved: bool = False) -> Any:
    return position.rotate(x, cos, sin, interleaved=not interleaved)


def swapped_gate(x: Any, weights: Any, *, kind: Any) -> Any:
    return mlp.gated_mlp(x, weights | {"gate": weights["up"], "up": weights["gate"]}, kind=kind)


def swapped_keys(x: Any, cache: Any, past: Any, weights: Any, *others: Any, settings: Any) -> Any:
    swapped = weights | {"wk": weights["wv"], "wv": weights["wk"]}
    return attention.attention(x, cache, past, swapped, *others, settings=settings)


def no_window(x: Any, cache: Any, past: Any, weights: Any, *others: Any, settings: Any) -> Any:
    unwindowed = replace(settings, mask=FullAttention())
    return attention.attention(x, cache, past, weights, *others, settings=unwindowed)


def no_clip(x: Any, lengths: Any, weights: Any, *others: Any, settings: Any, causal: bool = False) -> Any:
    wide = replace(settings, clip=None)
    return self_attention.self_attention(x, lengths, weights, *others, settings=wide, causal=causal)


def no_shared_gate(x: Any, weights: Any, *, settings: Any, capacity: Any = None) -> Any:
    fewer = {name: leaf for name, leaf in weights.items() if name != "shared_gate"}
    return moe.moe(x, fewer, settings=settings, capacity=capacity)


def other_gelu(x: Any) -> Any:
    return activation.gelu_tanh(x)


def no_zero_point(weight: Any) -> Any:
    return quant.dequantize(replace(weight, zero=None))


def half_away(x: Any, *, block: int) -> Any:
    scale = quant.quantize_activations(x, block=block)[1]
    spread = scale.repeat_interleave(block, 1)[:, : x.shape[1]]
    ratio = x / torch.where(spread == 0, 1, spread)
    return (torch.sign(ratio) * torch.floor(ratio.abs() + 0.5)).int(), scale


def bfloat(x: Any, weight: Any, bias: Any = None) -> Any:
    y = linear(x, weight, bias)
    return y.to(torch.bfloat16).to(y.dtype)


PLANTED = {
    "norm.rms_norm": (eps_outside,),
    "norm.layer_norm": (unbiased,),
    "attention.softmax": (wrong_axis,),
    "attention.attend": (no_scale,),
    "attention.attention_weights": (other_heads, no_sink),
    "mask.causal_mask": (strictly_before, window_off_by_one),
    "cache.append": (cache_off_by_one,),
    "position.rotate": (other_pairs,),
    "mlp.swiglu_oai": (swiglu,),
    "mlp.gated_mlp": (swapped_gate,),
    "attention.attention": (swapped_keys, no_window),
    "self_attention.self_attention": (no_clip,),
    "moe.moe": (no_shared_gate, no_router_bias),
    "activation.gelu": (other_gelu,),
    "quant.dequantize": (no_zero_point,),
    "quant.quantize_activations": (half_away,),
    "linear.linear": (bfloat,),
}


@pytest.mark.parametrize(("name", "bug"), [(n, b) for n, bugs in PLANTED.items() for b in bugs])
def test_a_planted_bug_is_found(name: str, bug: Any):
    with pytest.raises(AssertionError, match=r"off|differ|shape"):
        check_values(name, bug)


def test_a_branch_on_one_token_is_found():
    """T is "free", but the exporter keeps one branch: only a run with one token shows it."""

    def specialised(x: torch.Tensor) -> torch.Tensor:
        return x.relu() if x.shape[1] == 1 else x.relu() + 0 * x.var(1, keepdim=True)

    f = declared("activation.relu")
    check_values("activation.relu", specialised)
    with refused(AssertionError, "finite"):
        check_graph("activation.relu", specialised, (("x", f.parameters[0].options[0]),), 21)


def test_an_axis_that_became_a_number_is_found():
    def fixed(x: torch.Tensor) -> torch.Tensor:
        return x + torch.ones(5)[None, :, None]

    array = np.ones((3, 5, 4), np.float32)
    with pytest.raises(Exception, match=r"[Cc]onstraints|marked|dynamic"):
        export(fixed, {"x": (array, ("B", "T", "D"))}, 21)


def fed(hint: str, **defaults: Any) -> Any:
    def function(x: Any) -> Any: ...

    function.__annotations__ = {"x": hint, "return": 'Float[Array, "B T"]'}
    return function


@pytest.mark.parametrize("hint", ["int", "list[int]", 'Float[Array, "B T"] | str'])
def test_a_parameter_that_is_no_array_is_an_error(hint: str):
    with refused(UnfedError, "drawn", "array"):
        read(fed(hint))


def test_a_setting_without_values_is_an_error():
    def function(x: Any, *, colour: float) -> Any: ...

    function.__annotations__ = {
        "x": 'Float[Array, "B T"]',
        "colour": "float",
        "return": 'Float[Array, "B T"]',
    }
    with refused(UnfedError, "'colour'", "SETTINGS"):
        read(function)


def test_a_kind_without_a_strategy_is_an_error():
    f = read(fed('UInt8[Array, "B T"]'))
    odd = replace(f.parameters[0], options=(Declared("Complex", ("B", "T")),))
    f = replace(f, parameters=(odd,))
    with refused(UnfedError, "Complex"):
        make(f, singly(factors(f))[0], {"B": 1, "T": 1}, 0, 1.0)


def test_declarations_are_read():
    def function(
        x: Any, y: Any = None, *, window: int | None = None, kind: Literal["a", "b"] = "a", on: bool = False
    ) -> Any: ...

    function.__annotations__ = {
        "x": 'Index[Array, "B T", "< P+1"]',
        "y": 'Float[Array, " H*K"] | None',
        "window": "int | None",
        "kind": Literal["a", "b"],
        "on": "bool",
        "return": 'tuple[Bool[Array, ""], Int[Array, "G"]]',
    }
    f = read(function)
    assert f.parameters[0].options == (Declared("Index", ("B", "T"), "P+1"),)
    assert f.parameters[1].options == (Declared("Float", ("H*K",)), None)
    assert [p.options for p in f.parameters[2:]] == [(None, 1, 3), ("a", "b"), (False, True)]
    assert f.returns == (Declared("Bool", ()), Declared("Int", ("G",)))
    assert f.letters == {"B", "T", "P", "H", "K"}


def test_sizes_are_derived():
    count = itertools.count(2).__next__
    assert sizes({"G", "H", "K", "J"}, lambda _: count()) == {
        "G": 2, "R": 3, "H": 6, "J": 4, "U": 5, "K": 13,
    }  # fmt: skip
    assert sizes({"H", "K"}, lambda _: 7) == {"H": 7, "K": 7}
    assert sizes({"L", "T", "O"}, lambda _: 2)["L"] == 4


def test_each_choice_has_a_variant():
    choices = {"a": (1, 2, 3), "b": (None, "x"), "c": (True,)}
    variants = [dict(v) for v in singly(choices)]
    assert len(variants) == 3
    assert {name: {v[name] for v in variants} for name in choices} == {n: set(c) for n, c in choices.items()}
    assert singly({}) == [()]


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (np.zeros((2, 3, 4)), "returned float64 float32"),
        (np.zeros((2, 3, 4), np.int64), "returned int64 declares"),
        (np.zeros((2, 3), np.float32), "shape"),
        (np.zeros((2, 4, 3), np.float32), "shape"),
        ((np.zeros((2, 3, 4), np.float32),) * 2, "returned 2 results declares 1"),
    ],
)
def test_a_result_that_breaks_its_declaration_is_found(result: Any, words: str):
    f = declared("activation.relu")
    call = make(f, (("x", f.parameters[0].options[0]),), {"B": 2, "T": 3, "F": 4}, 0, 1.0)
    with refused(AssertionError, *words.split()):
        check_result(f, call, result)
