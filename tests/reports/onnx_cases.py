"""ONNX's own cases of an operator, and an adapter an operator that runs the specification on them.

    PYTHONPATH=tests python -m reports.onnx_cases

prints how many passed of those collected, by operator, and which are set aside. An adapter moves axes,
reshapes, casts to float64, and calls the specification; the formula stands nowhere in it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from tfm.refimpl.decoding.filters import top_indices
from tfm.refimpl.ops import attention as spec
from tfm.refimpl.ops import norm, quant, static_quant
from tfm.refimpl.ops.activation import activation
from tfm.refimpl.ops.cache import append
from tfm.refimpl.ops.delta import delta_attend
from tfm.refimpl.ops.lstm import bidirectional_lstm, lstm
from tfm.refimpl.ops.mask import causal_mask, padding_mask
from tfm.refimpl.ops.position import rotate

# Off by at most so much of the largest number expected: rounding of ONNX's own arithmetic in the type.
SHARES = {"float32": 2e-6, "float16": 2e-3, "bfloat16": 2e-2}
FLOAT_CODES = "its codes are floating point numbers of 8 or 4 bits: tfm has no such scheme"
# Cases that the specification isn't run on, and why.
ASIDE = {
    "test_quantizelinear_e4m3fn": FLOAT_CODES,
    "test_quantizelinear_e5m2": FLOAT_CODES,
    "test_quantizelinear_float4e2m1": FLOAT_CODES,
    "test_dequantizelinear_e4m3fn": FLOAT_CODES,
    "test_dequantizelinear_e4m3fn_float16": FLOAT_CODES,
    "test_dequantizelinear_e4m3fn_zero_point": FLOAT_CODES,
    "test_dequantizelinear_e5m2": FLOAT_CODES,
    "test_dequantizelinear_float4e2m1": FLOAT_CODES,
}


@dataclass(frozen=True)
class Case:
    """One case: attributes, inputs and expected outputs by their places, None where absent."""

    name: str
    attributes: dict[str, Any]
    inputs: list[Any]
    outputs: list[Any]


def collect(op: str) -> list[Case]:
    """The cases of an operator; graphs that write it out in other operators aren't cases of it."""
    node = importlib.import_module("onnx.backend.test.case.node")
    importlib.import_module(f"onnx.backend.test.case.node.{ADAPTERS[op][0]}")
    results = []
    for case in node._NodeTestCases:
        graph = case.model.graph
        if [n.op_type for n in graph.node] != [op]:
            continue
        (one,) = graph.node
        inputs, outputs = case.data_sets[0]
        arrays = dict(zip((i.name for i in graph.input), map(_array, inputs), strict=True))
        expected = dict(zip((o.name for o in graph.output), map(_array, outputs), strict=True))
        attributes = {a.name: helper.get_attribute_value(a) for a in one.attribute}
        results.append(
            Case(
                case.name,
                attributes,
                [arrays.get(n) for n in one.input],
                [expected.get(n) for n in one.output],
            )
        )
    return results


def _array(value: Any) -> np.ndarray:
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)


def check(op: str, case: Case) -> None:
    """The specification gives what the case expects: whole numbers exactly, floats but for rounding."""
    padded = (case.inputs + [None] * 8)[:8]
    got = ADAPTERS[op][1](case.attributes, padded)
    compared = 0
    for i, expected in enumerate(case.outputs):
        if expected is None:
            continue
        have, compared = np.asarray(got[i]), compared + 1
        assert have.shape == expected.shape, f"{case.name} {i}: {have.shape}, expected {expected.shape}"
        kind = str(expected.dtype)
        if kind not in (*SHARES, "float64"):
            assert (have == expected.astype(have.dtype)).all(), (
                f"{case.name} {i}: {have}, expected {expected}"
            )
            continue
        want = expected.astype(np.float64)
        strange = ~np.isfinite(want)
        assert (have[strange] == want[strange]).all(), f"{case.name} {i}: infinities differ"
        off = np.abs(have[~strange] - want[~strange]).max(initial=0)
        most = SHARES[kind] * max(np.abs(want[~strange]).max(initial=0), 1)
        assert off <= most, f"{case.name} {i}: off by {off:.3g}, allowed {most:.3g}"
    assert compared, f"{case.name} compares nothing"


def _exact(*arrays: Any) -> list[Any]:
    return [None if a is None else a.astype(np.float64) for a in arrays]


def _attention(a: dict[str, Any], inputs: list[Any]) -> list[Any]:
    q, k, v, mask, past_k, past_v, lengths, _ = inputs
    flat = q.ndim == 3
    heads, groups = a.get("q_num_heads"), a.get("kv_num_heads")
    q, k, v = (_split(x, n) for x, n in zip(_exact(q, k, v), (heads, groups, groups), strict=True))
    past = 0 if past_k is None else past_k.shape[2]
    k, v = _grown(k, past_k), _grown(v, past_v)
    (b, rows), length = q.shape[:2], k.shape[1]
    # Where queries stand: after the past, at the end of a cache of known lengths, or from 0.
    first = np.full(b, past) if lengths is None else lengths - rows
    at, keys = first[:, None] + np.arange(rows), np.arange(length)
    seen = np.ones((b, rows, length), bool)
    if a.get("is_causal"):
        seen &= causal_mask(at, keys)
    left, right = a.get("left_window_size", -1), a.get("right_window_size", -1)
    far = rows + length + past
    if left >= 0 or right >= 0:
        ahead = right if right >= 0 else far
        seen &= causal_mask(at + ahead, keys, window=1 + ahead + (left if left >= 0 else far))
    if lengths is not None:
        seen &= padding_mask(keys, lengths)[:, None]
    bias = None if mask is None else _bias(mask, (b, q.shape[2], rows, length))
    settings = {"scale": a.get("scale"), "softcap": a.get("softcap") or None}
    y = spec.attend(q, k, v, seen, bias, **settings)
    present = [x.transpose(0, 2, 1, 3) for x in (k, v)]
    mode, capped = a.get("qk_matmul_output_mode", 0), settings["softcap"]
    if mode == 3:
        shown = spec.attention_weights(q, k, seen, bias, **settings)
    else:
        some = seen, bias
        if mode < 2:
            some, capped = (None, None), capped if mode == 1 else None
        shown = _scores(q, k, *some, scale=settings["scale"], softcap=capped)
    joined = y.reshape(b, rows, -1) if flat else y.transpose(0, 2, 1, 3)
    return [joined, *present, shown]


def _split(x: np.ndarray, heads: int | None) -> np.ndarray:
    """[B, T, H·K] or [B, H, T, K] -> [B, T, H, K]."""
    return x.transpose(0, 2, 1, 3) if heads is None else x.reshape(*x.shape[:2], heads, -1)


def _grown(new: np.ndarray, past: np.ndarray | None) -> np.ndarray:
    """The new keys after those of the past, by the cache's own write."""
    if past is None:
        return new
    b, t, g, size = new.shape
    cache = np.concatenate([past, np.zeros((b, g, t, size))], axis=2)
    return append(cache, new, np.full(b, past.shape[2])).transpose(0, 2, 1, 3)


def _bias(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A mask of ONNX as something added for each head; keys past its end aren't seen."""
    added = np.where(mask, 0, -np.inf) if mask.dtype == bool else mask.astype(np.float64)
    short = shape[3] - added.shape[-1]
    added = np.pad(added, [(0, 0)] * (added.ndim - 1) + [(0, short)], constant_values=-np.inf)
    return np.broadcast_to(added, shape)


def _scores(q: np.ndarray, k: np.ndarray, seen: Any, bias: Any, **settings: Any) -> np.ndarray:
    """Scores from weights: a key of zeros has score 0, so that a weight over its weight is exp(score)."""
    edge = [(0, 0), (0, 0), (0, 1)]
    k = np.pad(k, [(0, 0), (0, 1), (0, 0), (0, 0)])
    seen = None if seen is None else np.pad(seen, edge, constant_values=True)
    bias = None if bias is None else np.pad(bias, [(0, 0), *edge])
    weights = spec.attention_weights(q, k, seen, bias, **settings)
    with np.errstate(divide="ignore"):
        return np.log(weights[..., :-1]) - np.log(weights[..., -1:])


def _rms_norm(a: dict[str, Any], inputs: list[Any]) -> list[Any]:
    x, weight = _exact(*inputs[:2])
    tokens = _tokens(x, a.get("axis", -1))
    y = norm.rms_norm(tokens, weight.reshape(-1), eps=a.get("epsilon", 1e-5))
    return [y.reshape(x.shape)]


def _layer_norm(a: dict[str, Any], inputs: list[Any]) -> list[Any]:
    x, weight, bias = _exact(*inputs[:3])
    axis = a.get("axis", -1) % x.ndim
    tokens, eps = _tokens(x, axis), a.get("epsilon", 1e-5)
    flat = None if bias is None else bias.reshape(-1)
    y = norm.layer_norm(tokens, weight.reshape(-1), flat, eps=eps)
    # Mean and 1/σ, as the norm itself shows them: it is a line through the token's numbers.
    plain = norm.layer_norm(tokens, np.ones(tokens.shape[-1]), eps=eps)
    inverse = np.ptp(plain, axis=-1) / np.ptp(tokens, axis=-1)
    mean = tokens[..., 0] - plain[..., 0] / inverse
    few = (*x.shape[:axis], *[1] * (x.ndim - axis))
    return [y.reshape(x.shape), mean.reshape(few), inverse.reshape(few)]


def _tokens(x: np.ndarray, axis: int) -> np.ndarray:
    """[…, the normalized axes] as tokens [1, T, D]."""
    return x.reshape(1, -1, int(np.prod(x.shape[axis % x.ndim :])))


def _linear_attention(a: dict[str, Any], inputs: list[Any]) -> list[Any]:
    q, k, v, state, decay, beta, *_ = _exact(*inputs)
    heads, groups = a["q_num_heads"], a["kv_num_heads"]
    q, k, v = _split(q, heads), _split(k, groups), _split(v, groups)
    if state is None:
        state = np.zeros((q.shape[0], groups, k.shape[3], v.shape[3]))
    if decay is not None:  # one a head is one an element, repeated
        decay = np.broadcast_to(_split(decay, groups), k.shape)
    if beta is not None:
        beta = np.broadcast_to(beta, k.shape[:3])
    y, after = delta_attend(q, k, v, state, decay, beta, scale=a.get("scale") or None)
    return [y.reshape(*y.shape[:2], -1), after]


def _rotary(a: dict[str, Any], inputs: list[Any]) -> list[Any]:
    x, cos, sin = _exact(*inputs[:3])
    if inputs[3] is not None:
        cos, sin = cos[inputs[3]], sin[inputs[3]]
    heads = a.get("num_heads") if x.ndim == 3 else None
    y = rotate(_split(x, heads), cos, sin, interleaved=bool(a.get("interleaved")))
    return [y.reshape(x.shape) if heads else y.transpose(0, 2, 1, 3)]


def _lstm(a: dict[str, Any], inputs: list[Any]) -> list[Any]:
    x, w, r, bias, lengths, h, c, peephole = _exact(*inputs)
    batch_first = a.get("layout") == 1
    x = x if batch_first else x.transpose(1, 0, 2)
    h, c = (s if s is None or not batch_first else s.transpose(1, 0, 2) for s in (h, c))
    lengths = None if lengths is None else lengths.astype(np.int64)
    ways: list[Any] = [
        {
            "wx": _gates(w[i]).T,
            "wh": _gates(r[i]).T,
            **({} if bias is None else {"bias": _gates(bias[i].reshape(2, -1).sum(0))}),
            **({} if peephole is None else {"peephole": _peepholes(peephole[i])}),
        }
        for i in range(len(w))
    ]
    if len(ways) == 2:
        y, last, cell = bidirectional_lstm(x, *ways, h0=h, c0=c, lengths=lengths)
        y = y.reshape(*y.shape[:2], 2, -1)
    else:
        start = {"h0": None if h is None else h[0], "c0": None if c is None else c[0]}
        reverse = a.get("direction") == b"reverse"
        y, last, cell = lstm(x, ways[0], **start, lengths=lengths, reverse=reverse)
        y, last, cell = y[:, :, None], last[None], cell[None]
    if batch_first:
        return [y, last.transpose(1, 0, 2), cell.transpose(1, 0, 2)]
    return [y.transpose(1, 2, 0, 3), last, cell]


def _gates(rows: np.ndarray) -> np.ndarray:
    """ONNX's gates i, o, f, g as i, f, g, o."""
    i, o, f, g = np.split(rows, 4)
    return np.concatenate([i, f, g, o])


def _peepholes(rows: np.ndarray) -> np.ndarray:
    """ONNX's i, o, f as i, f, o."""
    i, o, f = np.split(rows, 3)
    return np.concatenate([i, f, o])


def _gelu(a: dict[str, Any], inputs: list[Any]) -> list[Any]:
    return [activation(*_exact(inputs[0]), kind="gelu_tanh" if a.get("approximate") == b"tanh" else "gelu")]


def _swish(a: dict[str, Any], inputs: list[Any]) -> list[Any]:
    assert a.get("alpha", 1.0) == 1, "SiLU is Swish with α = 1"
    return [activation(*_exact(inputs[0]), kind="silu")]


def _softmax(a: dict[str, Any], inputs: list[Any]) -> list[Any]:
    (x,), axis = _exact(inputs[0]), a.get("axis", -1)
    return [np.moveaxis(spec.softmax(np.moveaxis(x, axis, -1)), -1, axis)]


def _spread(x: np.ndarray, per: Any, a: dict[str, Any]) -> np.ndarray:
    """A scale or zero point of the tensor, an axis or a block as one of each element, [1, D]."""
    axis = a.get("axis", 1)
    if a.get("block_size"):
        per = np.repeat(per, a["block_size"], axis=axis)
    elif per.size == 1:
        per = per.reshape(())
    else:
        per = per.reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])
    return np.broadcast_to(per, x.shape).reshape(1, -1)


def _kind(dtype: Any) -> tuple[int, bool]:
    """Bits, and whether there is a sign, of a type of codes as it is called."""
    name = str(dtype)
    return int(name.removeprefix("u").removeprefix("int")), not name.startswith("u")


def _quantize(a: dict[str, Any], inputs: list[Any]) -> list[Any]:
    x, scale, zero = inputs[:3]
    kind = helper.tensor_dtype_to_np_dtype(a["output_dtype"]) if zero is None else zero.dtype
    bits, signed = _kind(kind)
    zeros = np.zeros_like(scale, dtype=np.int64) if zero is None else zero.astype(np.int64)
    spread = _spread(x, scale, a)[0], _spread(x, zeros, a)[0]
    codes = static_quant.static_quantize(x.reshape(1, -1), *spread, bits=bits, signed=signed)
    return [codes.reshape(x.shape)]


def _dequantize(a: dict[str, Any], inputs: list[Any]) -> list[Any]:
    codes, scale, zero = inputs[:3]
    zeros = np.zeros_like(scale, dtype=np.int64) if zero is None else zero.astype(np.int64)
    flat = codes.astype(np.int64).reshape(1, -1)
    y = static_quant.static_dequantize(flat, _spread(codes, scale, a)[0], _spread(codes, zeros, a)[0])
    return [y.reshape(codes.shape)]


def _dynamic_quantize(a: dict[str, Any], inputs: list[Any]) -> list[Any]:
    x = inputs[0]
    codes, scale, zero = quant.dynamic_quantize(x.reshape(1, -1))
    return [codes.reshape(x.shape), scale, zero]


def _dots(a: np.ndarray, zero_a: Any, b: np.ndarray, zero_b: Any) -> np.ndarray:
    """Products of matrices of codes, matrix by matrix."""
    as_int64 = lambda z: np.zeros(1, np.int64) if z is None else z.astype(np.int64)  # noqa: E731
    left, right = (
        np.broadcast_to(as_int64(zero_a), a.shape[-2]),
        np.broadcast_to(as_int64(zero_b), b.shape[-1]),
    )
    wide = [m.astype(np.int64).reshape(-1, *m.shape[-2:]) for m in (a, b)]
    products = [static_quant.integer_matmul(m, n, left, right) for m, n in zip(*wide, strict=True)]
    return np.stack(products).reshape(*a.shape[:-1], b.shape[-1])


def _matmul_integer(a: dict[str, Any], inputs: list[Any]) -> list[Any]:
    return [_dots(inputs[0], inputs[2], inputs[1], inputs[3])]


def _qlinear_matmul(a: dict[str, Any], inputs: list[Any]) -> list[Any]:
    left, scale_a, zero_a, right, scale_b, zero_b, scale, zero = inputs
    dots = _dots(left, zero_a, right, zero_b).reshape(1, -1)
    real = static_quant.static_dequantize(dots, scale_a.astype(np.float64) * scale_b, np.zeros(1, int))
    bits, signed = _kind(zero.dtype)
    quantization = scale.astype(np.float64), zero.astype(np.int64)
    codes = static_quant.static_quantize(real, *quantization, bits=bits, signed=signed)
    return [codes.reshape(*left.shape[:-1], right.shape[-1])]


def _tensor_scatter(a: dict[str, Any], inputs: list[Any]) -> list[Any]:
    past, new, start = inputs[:3]
    shape = past.shape
    # [B, L, D] is a cache of one head; the spec's new entries stand [B, T, G, K].
    cache, new = (x.reshape(shape[0], -1, *x.shape[-2:]) for x in (past, new))
    start = np.zeros(shape[0], np.int64) if start is None else start
    if a.get("mode") == b"circular":
        for t in range(new.shape[2]):
            cache = append(cache, new[:, :, t : t + 1].transpose(0, 2, 1, 3), (start + t) % cache.shape[2])
    else:
        cache = append(cache, new.transpose(0, 2, 1, 3), start)
    return [cache.reshape(shape)]


def _top_k(a: dict[str, Any], inputs: list[Any]) -> list[Any]:
    x, (count,) = inputs[:2]
    axis = a.get("axis", -1)
    rows = np.moveaxis(x, axis, -1)
    signed = rows.astype(np.float64) * (1 if a.get("largest", 1) else -1)
    best = np.array([top_indices(row, int(count)) for row in signed.reshape(-1, rows.shape[-1])])
    best = best.reshape(*rows.shape[:-1], -1)
    return [np.moveaxis(m, -1, axis) for m in (np.take_along_axis(rows, best, -1), best)]


Adapter = Callable[[dict[str, Any], list[Any]], list[Any]]
# Operator -> ONNX's file of its cases, and the adapter.
ADAPTERS: dict[str, tuple[str, Adapter]] = {
    "Attention": ("attention", _attention),
    "RMSNormalization": ("rmsnormalization", _rms_norm),
    "LayerNormalization": ("layernormalization", _layer_norm),
    "LinearAttention": ("linear_attention", _linear_attention),
    "RotaryEmbedding": ("rotaryembedding", _rotary),
    "LSTM": ("lstm", _lstm),
    "Gelu": ("gelu", _gelu),
    "Softmax": ("softmax", _softmax),
    "Swish": ("swish", _swish),
    "QuantizeLinear": ("quantizelinear", _quantize),
    "DequantizeLinear": ("dequantizelinear", _dequantize),
    "DynamicQuantizeLinear": ("dynamicquantizelinear", _dynamic_quantize),
    "MatMulInteger": ("matmulinteger", _matmul_integer),
    "QLinearMatMul": ("qlinearmatmul", _qlinear_matmul),
    "TensorScatter": ("tensorscatter", _tensor_scatter),
    "TopK": ("topk", _top_k),
}


def table() -> tuple[list[tuple[str, int, int]], dict[str, str]]:
    """(operator, passed, collected) of each, and why the others aren't among those passed."""
    rows, others = [], {}
    for op in ADAPTERS:
        passed, cases = 0, collect(op)
        for case in cases:
            try:
                if case.name not in ASIDE:
                    check(op, case)
                    passed += 1
            except Exception as error:
                others[case.name] = f"fails: {error}"
        others |= {c.name: f"set aside: {ASIDE[c.name]}" for c in cases if c.name in ASIDE}
        rows.append((op, passed, len(cases)))
    return rows, others


if __name__ == "__main__":
    rows, others = table()
    rows.append(("all", *(sum(r[i] for r in rows) for i in (1, 2))))
    for op, passed, collected in rows:
        print(f"{op:24} {passed:4} of {collected:4}")  # noqa: T201
    for name, why in others.items():
        print(f"{name}: {why}")  # noqa: T201
