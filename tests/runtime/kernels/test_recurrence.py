"""The kernels of layers that keep a state: what `refimpl` specifies, with the same bits in any chunks."""

from __future__ import annotations

import ctypes as c
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from helpers import onnx_nodes
from helpers.kernels import GUARD, Kernels, Runner, bits_of, guarded, in_order, in_threads, pool_of
from helpers.refused import refused
from hypothesis import given
from hypothesis import strategies as st
from numpy import ndarray as Array
from onnx import helper
from tfm.refimpl.ops.activation import activation
from tfm.refimpl.ops.delta import delta_attend
from tfm.refimpl.ops.short_conv import begun, causal_conv, last_inputs
from tfm.runtime.kernels.specification import arithmetic, ops, recurrence

ULP = 2.0**-24  # half of one: the error of one rounding, as a share of the number


class CausalConvCall(c.Structure):
    """kernels.h: `CausalConvCall`."""

    _fields_ = (
        *((name, c.c_void_p) for name in ("x", "kernel", "bias", "tail", "y", "past", "lengths")),
        *((name, c.c_int32) for name in ("batch", "tokens", "channels", "length")),
        ("silu", c.c_bool),
    )


class LinearAttentionCall(c.Structure):
    """kernels.h: `LinearAttentionCall`."""

    _fields_ = (
        *((name, c.c_void_p) for name in ("q", "k", "v", "step", "a_log", "beta", "state", "y", "past")),
        *((name, c.c_size_t) for name in ("q_stride", "k_stride", "v_stride")),
        *((name, c.c_int32) for name in ("batch", "tokens", "heads", "key_heads", "key_size", "value_size")),
        ("by_key", c.c_bool),
        ("scale", c.c_float),
        ("unit", c.c_float),
    )


def copied(a: Array) -> Array:
    """The bytes of an array, with a guard behind them."""
    memory = guarded(a.nbytes)
    memory[: a.nbytes] = np.ascontiguousarray(a).reshape(-1).view(np.uint8)
    return memory


def content(memory: Array, shape: tuple[int, ...]) -> Array:
    """The numbers of such memory, behind which nothing was written."""
    size = int(np.prod(shape)) * 4
    assert (memory[size:] == GUARD).all()
    return memory[:size].view(np.float32).reshape(shape)


def address(a: Array | None) -> int | None:
    return None if a is None else a.ctypes.data


@dataclass(frozen=True)
class Convolution:
    """A convolution's inputs, as the operator has them."""

    x: Array
    tail: Array
    kernel: Array
    past: Array
    lengths: Array
    bias: Array | None
    silu: bool

    def run(self, kernels: Kernels, runner: Runner = in_order) -> tuple[Array, Array]:
        """Outputs and the new tail."""
        batch, tokens, channels = self.x.shape
        tail, y = copied(self.tail), guarded(self.x.nbytes)
        inputs = [address(a) for a in (self.x, self.kernel, self.bias)]
        rows = [address(a) for a in (self.past, self.lengths)]
        sizes = (batch, tokens, channels, len(self.kernel))
        call = CausalConvCall(*inputs, address(tail), address(y), *rows, *sizes, self.silu)
        assert kernels.causal_conv(c.addressof(call), pool_of(runner))
        return content(y, self.x.shape), content(tail, self.tail.shape)

    def part(self, tokens: slice, tail: Array) -> Convolution:
        """Some of the tokens, all of them real, after the others."""
        x = np.ascontiguousarray(self.x[:, tokens])
        lengths = np.full(len(x), x.shape[1])
        past = self.past if tokens.start == 0 else self.past + tokens.start
        return replace(self, x=x, tail=tail, past=past, lengths=lengths)


@st.composite
def convolutions(draw: st.DrawFn) -> Convolution:
    batch, tokens, channels, length = draw(
        st.sampled_from([(1, 1, 1, 1), (2, 3, 17, 2), (3, 5, 40, 4), (1, 9, 300, 4), (2, 64, 530, 3)])
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x, tail, kernel = (
        rng.standard_normal(shape).astype(np.float32)
        for shape in ((batch, tokens, channels), (batch, length - 1, channels), (length, channels))
    )
    bias = rng.standard_normal(channels).astype(np.float32) if draw(st.booleans()) else None
    past, lengths = rng.integers(0, 3, batch), rng.integers(0, tokens + 1, batch)
    return Convolution(x, tail, kernel, past, lengths, bias, draw(st.booleans()))


@given(convolutions())
def test_a_convolution_is_what_is_specified(instruction_sets: list[Kernels], one: Convolution) -> None:
    x, tail, kernel = (a.astype(np.float64) for a in (one.x, one.tail, one.kernel))
    bias = None if one.bias is None else one.bias.astype(np.float64)
    tail = begun(tail, one.past)
    expected = causal_conv(x, kernel, tail, bias)
    size = causal_conv(abs(x), abs(kernel), abs(tail), None if bias is None else abs(bias))
    allowed = (len(kernel) + 1) * ULP * size
    if one.silu:  # its slope is below 1.1; 3 ulp of its own
        expected, allowed = activation(expected, kind="silu"), 1.1 * allowed + 7 * ULP * size
    rounded = ops.causal_conv(one.x, one.kernel, begun(one.tail, one.past), one.bias)
    rounded = arithmetic.silu(rounded) if one.silu else rounded
    for kernels in instruction_sets:
        y, last = one.run(kernels)
        assert (np.abs(y - expected) <= allowed).all(), kernels.name
        assert np.array_equal(bits_of(y), bits_of(rounded)), kernels.name
        assert np.array_equal(last, last_inputs(tail, x, one.lengths).astype(np.float32))
        for same, other in zip((y, last), one.run(kernels, in_threads), strict=True):
            assert np.array_equal(same, other)


def test_a_convolution_has_the_same_bits_in_parts_and_in_all_sets(instruction_sets: list[Kernels]) -> None:
    rng = np.random.default_rng(0)
    x, tail, kernel = (
        rng.standard_normal(shape).astype(np.float32) for shape in ((2, 7, 37), (2, 3, 37), (4, 37))
    )
    whole = Convolution(x, tail, kernel, np.array([0, 4]), np.array([7, 7]), kernel[0], True)
    results = []
    for kernels in instruction_sets:
        parts, last = [], tail
        for tokens in (slice(0, 1), slice(1, 3), slice(3, 7)):
            y, last = whole.part(tokens, last).run(kernels)
            parts.append(y)
        y, after = whole.run(kernels)
        assert np.array_equal(np.concatenate(parts, 1), y)
        assert np.array_equal(last, after)
        results.append(bits_of(y))
    assert all(np.array_equal(one, results[0]) for one in results)


def test_a_convolution_of_impossible_lengths_is_refused(instruction_sets: list[Kernels]) -> None:
    x, kernel = np.ones((1, 2, 3), np.float32), np.ones((2, 3), np.float32)
    for length in (-1, 3):
        one = Convolution(x, x[:, :1], kernel, np.array([1]), np.array([length]), None, False)
        for kernels in instruction_sets:
            with pytest.raises(AssertionError):
                one.run(kernels)


@dataclass(frozen=True)
class Recurrence:
    """The inputs of linear attention; `qkv` holds queries, keys and values of a token side by side."""

    qkv: Array  # [B, T, 2 G K + H V]
    step: Array  # [B, T, H]
    a_log: Array  # [H] or [H, K]
    beta: Array | None  # [B, T, H]
    state: Array  # [B, H, K, V]
    past: Array
    key_heads: int
    scale: float
    unit: float

    @property
    def widths(self) -> tuple[int, int, int]:
        heads, keys, values = self.state.shape[1:]
        return self.key_heads * keys, self.key_heads * keys, heads * values

    def run(self, kernels: Kernels, runner: Runner = in_order) -> tuple[Array, Array]:
        """Outputs [B, T, H, V] and the new state."""
        batch, heads, keys, values = self.state.shape
        shape = (batch, self.qkv.shape[1], heads, values)
        state, y, x = copied(self.state), guarded(int(np.prod(shape)) * 4), np.ascontiguousarray(self.qkv)
        at = np.cumsum([0, *self.widths[:2]]) * 4
        arrays = [address(a) for a in (self.step, self.a_log, self.beta, state, y, self.past)]
        sizes = (*(x.shape[2],) * 3, batch, shape[1], heads, self.key_heads, keys, values)
        flags = (self.a_log.ndim == 2, self.scale, self.unit)
        call = LinearAttentionCall(*(int(x.ctypes.data + i) for i in at), *arrays, *sizes, *flags)
        kernels.linear_attention(c.addressof(call), pool_of(runner))
        return content(y, shape), content(state, self.state.shape)

    def specified(self) -> tuple[Array, Array]:
        """The same by the specification, in float64."""
        _, heads, keys, values = self.state.shape
        q, k, v = np.split(self.qkv.astype(np.float64), np.cumsum(self.widths[:2]), axis=2)
        share = heads // self.key_heads
        q, k = (np.repeat(a.reshape(*a.shape[:2], -1, keys), share, axis=2) for a in (q, k))
        if self.unit:
            q, k = (a / np.sqrt((a * a).sum(-1, keepdims=True) + np.float32(self.unit)) for a in (q, k))
        rates = -np.exp(self.a_log.astype(np.float64))
        decay = self.step[..., None] * (rates if rates.ndim == 2 else rates[:, None])
        beta = None if self.beta is None else self.beta.astype(np.float64)
        state = begun(self.state.astype(np.float64), self.past)
        v = v.reshape(*v.shape[:2], heads, values)
        decay = np.broadcast_to(decay, k.shape)
        return delta_attend(q, k, v, state, decay, beta, scale=float(np.float32(self.scale)))

    def rounded(self) -> tuple[Array, Array]:
        """The same to the bit, of heads that have beta and keys of length 1."""
        assert self.beta is not None
        _, heads, keys, values = self.state.shape
        q, k, v = np.split(self.qkv, np.cumsum(self.widths[:2]), axis=2)
        q, k = (recurrence.l2_norm(a.reshape(*a.shape[:2], -1, keys), eps=self.unit) for a in (q, k))
        q, k = (np.repeat(a, heads // self.key_heads, axis=2) for a in (q, k))
        v, state = v.reshape(*v.shape[:2], heads, values), begun(self.state, self.past)
        decay = (self.step * -arithmetic.bounded_exp(self.a_log))[..., None]
        return recurrence.gated_delta_rule(q, k, v, state, decay, self.beta)


def drawn(rng: np.random.Generator, shape: Any, *, beta: bool, by_key: bool, unit: bool) -> Recurrence:
    """Numbers as layers have them; `shape` is batch, tokens, heads, of keys, numbers of keys, values."""
    batch, tokens, heads, key_heads, keys, values = shape
    made = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    qkv = made(batch, tokens, 2 * key_heads * keys + heads * values)
    if beta and not unit:
        qkv[..., : 2 * key_heads * keys] *= np.float32(keys**-0.5)
    step = rng.uniform(0, 2, (batch, tokens, heads)).astype(np.float32)
    step[:, tokens // 2 :: 3] = 0  # as at padding
    chosen = rng.uniform(0, 1, (batch, tokens, heads)).astype(np.float32) if beta else None
    a_log = rng.uniform(-3, 1, (heads, keys) if by_key else heads).astype(np.float32)
    state, past = made(batch, heads, keys, values), rng.integers(0, 2, batch)
    return Recurrence(qkv, step, a_log, chosen, state, past, key_heads, keys**-0.5, 1e-6 if unit else 0.0)


SHAPES = [
    (1, 1, 1, 1, 1, 2), (2, 3, 4, 2, 16, 17), (1, 5, 3, 3, 20, 64), (2, 9, 6, 2, 33, 80),
    (1, 20, 2, 1, 64, 130), (2, 4, 37, 1, 16, 1), (1, 30, 90, 1, 19, 1), (1, 3, 4, 2, 24, 1),
]  # fmt: skip


@given(st.sampled_from(SHAPES), st.integers(0, 2**32), st.booleans(), st.booleans(), st.booleans())
def test_linear_attention_is_what_is_specified(
    instruction_sets: list[Kernels], shape: Any, seed: int, beta: bool, by_key: bool, unit: bool
) -> None:
    one = drawn(np.random.default_rng(seed), shape, beta=beta, by_key=by_key, unit=unit)
    expected, after = one.specified()
    # Errors of a token's sums over keys, each as large as what was written, fade as the state does.
    tokens, keys = shape[1], shape[4]
    share = (2 * keys + 30) * tokens * ULP
    for kernels in instruction_sets:
        y, state = one.run(kernels)
        for got, exact in ((y, expected), (state, after)):
            assert (np.abs(got - exact) <= share * np.abs(exact).max() + 2.0**-149).all(), kernels.name
        for same, other in zip((y, state), one.run(kernels, in_threads), strict=True):
            assert np.array_equal(same, other)


@pytest.mark.parametrize("shape", [(2, 7, 4, 2, 24, 100), (2, 7, 40, 1, 16, 1)])
def test_linear_attention_has_the_same_bits_in_parts_and_in_all_sets(
    instruction_sets: list[Kernels], shape: Any
) -> None:
    channels = shape[5] == 1
    whole = drawn(np.random.default_rng(1), shape, beta=not channels, by_key=channels, unit=not channels)
    results = []
    for kernels in instruction_sets:
        parts, state = [], whole.state
        for tokens in (slice(0, 1), slice(1, 3), slice(3, 7)):
            cut = {"qkv": whole.qkv, "step": whole.step, "beta": whole.beta}
            cut = {n: None if a is None else np.ascontiguousarray(a[:, tokens]) for n, a in cut.items()}
            y, state = replace(whole, **cut, state=state, past=whole.past + tokens.start).run(kernels)
            parts.append(y)
        y, after = whole.run(kernels)
        assert np.array_equal(np.concatenate(parts, 1), y)
        assert np.array_equal(state, after)
        results.append(bits_of(y))
        if not channels:
            for got, rounded in zip((y, after), whole.rounded(), strict=True):
                assert np.array_equal(bits_of(got), bits_of(rounded))
    assert all(np.array_equal(one, results[0]) for one in results)


def run_node(library: Path, operator: str, arrays: dict[str, Array], **attributes: Any) -> list[Array]:
    """The operator on ONNX Runtime."""
    node = helper.make_node(operator, list(arrays), ["y", "after"], domain="tfm", **attributes)
    return onnx_nodes.graph([node], arrays, {}, ["y", "after"], library)


def test_the_operators_of_recurrences(kernels_library: Path, instruction_sets: list[Kernels]) -> None:
    rng = np.random.default_rng(2)
    x, tail, kernel = (
        rng.standard_normal(shape).astype(np.float32) for shape in ((2, 5, 20), (2, 3, 20), (4, 20))
    )
    one = Convolution(x, tail, kernel, np.array([0, 4]), np.array([5, 2]), kernel[1], True)
    inputs = {n: getattr(one, n) for n in ("x", "tail", "kernel", "past", "lengths", "bias")}
    got = run_node(kernels_library, "CausalConv", inputs, silu=1)
    for a, b in zip(got, one.run(instruction_sets[0]), strict=True):
        assert np.array_equal(a, b)
    made = drawn(rng, (2, 3, 4, 2, 16, 17), beta=True, by_key=False, unit=True)
    inputs = dict(zip("qkv", (made.qkv,) * 3, strict=True))
    inputs |= {n: getattr(made, n) for n in ("state", "step", "a_log", "past", "beta")}
    places = dict(zip(("q_at", "k_at", "v_at"), (0, 32, 64), strict=True))
    sizes = {"key_heads": 2, "scale": made.scale, "unit": made.unit, **places}
    y, after = run_node(kernels_library, "LinearAttention", inputs, **sizes)
    expected, state = made.run(instruction_sets[0])
    assert np.array_equal(y.reshape(expected.shape), expected)
    assert np.array_equal(after, state)
    # A state without an axis of values has one value a head.
    one_value = drawn(rng, (2, 3, 20, 1, 6, 1), beta=False, by_key=True, unit=False)
    channels = {n: getattr(one_value, n) for n in ("step", "a_log", "past")}
    channels = dict.fromkeys("qkv", one_value.qkv) | {"state": one_value.state[..., 0]} | channels
    y, after = run_node(
        kernels_library,
        "LinearAttention",
        channels,
        key_heads=1,
        scale=one_value.scale,
        unit=0.0,
        q_at=0,
        k_at=6,
        v_at=12,
    )
    expected, state = one_value.run(instruction_sets[0])
    assert np.array_equal(y, expected[..., 0])
    assert np.array_equal(after, state[..., 0])
    errors = onnxruntime.capi.onnxruntime_pybind11_state
    kinds = (errors.InvalidArgument, errors.RuntimeException)  # by a run, by making a session
    convolution = {n: getattr(one, n) for n in ("x", "tail", "kernel", "past", "lengths", "bias")}
    for operator, arrays, changed, attributes, match in (
        ("CausalConv", convolution, {"lengths": np.array([6, 2])}, {"silu": 1}, "lengths 0 T"),
        ("CausalConv", convolution, {"tail": tail[:, 1:]}, {"silu": 1}, "tail"),
        ("CausalConv", convolution, {"kernel": kernel[:, 1:]}, {"silu": 1}, "kernel"),
        ("CausalConv", convolution, {"past": np.array([1])}, {"silu": 1}, "past lengths"),
        ("CausalConv", convolution, {"bias": kernel[0, 1:]}, {"silu": 1}, "bias"),
        ("LinearAttention", inputs, {}, sizes | {"key_heads": 3}, "key_heads divide"),
        ("LinearAttention", inputs, {}, sizes | {"v_at": 65}, "q, k v"),
        ("LinearAttention", inputs, {}, sizes | {"q_at": -1}, "0"),
        ("LinearAttention", inputs, {}, sizes | {"v_at": 2**63 - 8}, "0"),
        ("LinearAttention", inputs, {}, sizes | {"key_heads": 2**62}, "key_heads 1"),
        ("LinearAttention", inputs, {"step": made.step[:, 1:]}, sizes, "step beta"),
        ("LinearAttention", inputs, {"a_log": made.a_log[1:]}, sizes, "a_log"),
        ("LinearAttention", inputs, {"past": np.array([1])}, sizes, "past"),
        ("LinearAttention", inputs, {"state": made.state[:1]}, sizes, "state"),
    ):
        with refused(kinds, *match.split()):
            run_node(kernels_library, operator, arrays | changed, **attributes)
