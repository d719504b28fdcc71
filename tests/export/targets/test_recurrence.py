"""Rules of a state as targets compute them, against the recurrences of the specification."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from helpers import onnx_graph
from helpers.mirror import over_tensors
from helpers.tolerances import equal
from onnx import TensorProto, helper
from tfm.export.targets.recurrence import (
    gated_delta_chunk,
    gated_delta_operator,
    selective_scan_chunk,
    selective_scan_operator,
    ssd_operator,
    wkv_chunk,
)
from tfm.refimpl import laws
from tfm.refimpl.engine.cache_kinds import CHUNK
from tfm.refimpl.laws.kit.checking import EQUALS
from tfm.refimpl.ops.activation import precise_sigmoid
from tfm.refimpl.ops.delta import gated_delta_rule
from tfm.refimpl.ops.selective_scan import selective_scan
from tfm.refimpl.ops.ssd import ssd_recurrent
from tfm.refimpl.ops.wkv import NEVER, PADDING, wkv

NAMES = ("q", "k", "v", "state", "decay", "beta")


def arrays(time: int, kind: str) -> dict[str, np.ndarray]:
    """Two rows of three heads. Where they are `alike` all keys are the same one, β is 1 and nothing decays;
    where they have `channels`, each has decays of its own."""
    alike, channels = kind == "alike", (5,) * (kind == "channels")
    rng = np.random.default_rng(time)
    q, k = rng.standard_normal((2, 2, time, 3, 5))
    k = k[:, :1].repeat(time, 1) if alike else k.copy()
    decay = -np.exp(rng.normal(0, 2, (2, time, 3, *channels))) * (not alike)
    beta = np.ones((2, time, 3)) if alike else rng.random((2, time, 3))
    v, state = rng.standard_normal((2, time, 3, 4)), rng.standard_normal((2, 3, 5, 4))
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    return dict(zip(NAMES, (q, k, v, state, decay, beta), strict=True))


@pytest.mark.parametrize("kind", ["any", "alike", "channels"])
@pytest.mark.parametrize("time", [1, 2, 3, 100, CHUNK])
def test_a_run_of_any_length_is_one_chunk(time: int, kind: str):
    """Also where each token overwrites what the one before it wrote: powers of that system would explode."""
    given = arrays(time, kind)
    got = gated_delta_chunk(*(torch.from_numpy(a) for a in given.values()))
    for ours, expected in zip(got, gated_delta_rule(**given), strict=True):
        equal(ours.numpy(), expected)


def test_more_tokens_than_a_run_has_are_not_a_number():
    got, _ = gated_delta_chunk(*(torch.from_numpy(a) for a in arrays(CHUNK + 1, "any").values()))
    assert got.isnan().any()


def scan_arrays(time: int) -> tuple[np.ndarray, ...]:
    """Two rows of three channels with states of five."""
    rng = np.random.default_rng(time)
    x, step = rng.standard_normal((2, 2, time, 3))
    b, c = rng.standard_normal((2, 2, time, 5))
    return x, abs(step), -np.exp(rng.normal(0, 2, (3, 5))), b, c, rng.standard_normal((2, 3, 5))


@pytest.mark.parametrize("time", [1, 2, 3, 100, CHUNK])
def test_a_run_of_any_length_is_scanned_in_parallel(time: int):
    given = scan_arrays(time)
    got = selective_scan_chunk(*map(torch.from_numpy, given))
    for ours, expected in zip(got, selective_scan(*given), strict=True):
        equal(ours.numpy(), expected)


def test_more_tokens_than_a_run_has_are_not_scanned():
    got, _ = selective_scan_chunk(*map(torch.from_numpy, scan_arrays(CHUNK + 1)))
    assert got.isnan().any()


def average_arrays(time: int, scale: float) -> tuple[np.ndarray, ...]:
    """Two rows of three channels: one after a text, the other from its first token on, with padding last."""
    rng = np.random.default_rng(time)
    k, v = rng.standard_normal((2, 2, time, 3))
    k, decay = k * scale, np.broadcast_to(-np.exp(rng.normal(-2, 2, 3)), k.shape).copy()
    k[1, time // 2 :], decay[1, time // 2 :] = PADDING, 0
    none = np.zeros(3), np.ones(3), np.full(3, NEVER)
    there = rng.standard_normal(3), 1 + rng.random(3), scale * rng.standard_normal(3)
    return k, v, decay, rng.standard_normal(3), *(np.stack(pair) for pair in zip(there, none, strict=True))


@pytest.mark.parametrize("scale", [1.0, 1000.0])
@pytest.mark.parametrize("time", [1, 2, 3, 100, CHUNK])
def test_a_run_of_any_length_is_averaged_in_rounds(time: int, scale: float):
    """Also with keys whose exponentials are no numbers, and in a row in which no token is there."""
    given = average_arrays(time, scale)
    got = wkv_chunk(*map(torch.from_numpy, given))
    for ours, expected in zip(got, wkv(*given), strict=True):
        equal(ours[0].numpy(), expected[0])
        real = slice(time // 2) if ours.ndim == 3 else slice(None)
        equal(ours[1][real].numpy(), expected[1][real])
        assert ours.isfinite().all()


def test_more_tokens_than_a_run_has_are_not_averaged():
    got, *_ = wkv_chunk(*map(torch.from_numpy, average_arrays(CHUNK + 1, 1.0)))
    assert got.isnan().any()


@functools.cache
def operator(heads: int, rule: str, scale: float, queries: int) -> onnxruntime.InferenceSession:
    """One node, LinearAttention, for arrays of any sizes."""
    attributes: dict[str, Any] = {"q_num_heads": queries, "kv_num_heads": heads, "update_rule": rule}
    inputs = NAMES if rule == "gated_delta" else NAMES[:-1]
    node = helper.make_node(
        "LinearAttention", inputs, ["y", "after"], domain="com.microsoft", scale=scale, **attributes
    )
    return session(node, inputs, ["y", "after"])


def session(node: Any, inputs: Sequence[str], outputs: Sequence[str]) -> onnxruntime.InferenceSession:
    values = lambda names: [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names]  # noqa: E731
    graph = helper.make_graph([node], "one", values(inputs), values(outputs))
    sets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=sets, ir_version=10)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def computed(
    rule: str, q: np.ndarray, k: np.ndarray, v: np.ndarray, *others: np.ndarray, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    flat = [a.reshape(*a.shape[:2], -1) for a in (q, k, v)]
    y, after = operator(v.shape[2], rule, scale, q.shape[2]).run(
        None, dict(zip(NAMES, (*flat, *others), strict=False))
    )
    return np.asarray(y).reshape(v.shape), np.asarray(after)


def test_linear_attention_of_onnx_runtime_is_the_rule():
    """Over drawn shapes, grouped heads repeated as the mirror repeats them, decays of heads or channels."""

    def kernel(*given: Any) -> tuple[np.ndarray, np.ndarray]:
        q, k, v, state, decay, beta = (np.asarray(a) for a in given)
        decay = decay.reshape(*decay.shape[:2], -1)
        return computed("gated_delta", q, k, v, state, decay, beta, scale=q.shape[3] ** -0.5)

    laws.check("gated_delta_rule", kernel, dtype=np.float32, only=EQUALS)


def test_linear_attention_of_onnx_runtime_is_a_state_space():
    """Over drawn shapes, keys and queries of groups repeated as the graph repeats them."""

    def kernel(*given: Any) -> tuple[np.ndarray, np.ndarray]:
        x, decay, b, c, state = (np.asarray(a) for a in given)
        b, c = (np.repeat(a, x.shape[2] // a.shape[2], axis=2) for a in (b, c))
        return computed("gated", c, b, x, state, decay, scale=1.0)

    laws.check("ssd_recurrent", kernel, dtype=np.float32, only=EQUALS)


def test_linear_attention_of_onnx_runtime_is_a_selective_scan():
    """Over drawn shapes: a head of one number for each channel, one head of keys and queries for all."""

    def kernel(*given: Any) -> tuple[np.ndarray, np.ndarray]:
        x, step, rates, b, c, state = (np.asarray(a) for a in given)
        decay = (step[..., None] * rates).reshape(*x.shape[:2], -1)
        heads = (a[:, :, None] for a in (c, b))
        y, after = computed("gated", *heads, (step * x)[..., None], state[..., None], decay, scale=1.0)
        return y[..., 0], after[..., 0]

    laws.check("selective_scan", kernel, dtype=np.float32, only=EQUALS)


@functools.cache
def convolution(*inputs: str) -> onnxruntime.InferenceSession:
    """One node, CausalConvWithState, over tokens as rows."""
    node = helper.make_node(
        "CausalConvWithState", inputs, ["y", "after"], domain="com.microsoft", channels_last=1
    )
    return session(node, [name for name in inputs if name], ["y", "after"])


def test_causal_conv_with_state_of_onnx_runtime_is_the_convolution():
    """Over drawn shapes, with and without a tail and a bias. Graphs don't use it, `export.targets.recurrence`
    says why."""

    def kernel(x: Any, kernel: Any, tail: Any = None, bias: Any = None) -> Any:
        given = {"x": x, "kernel": np.asarray(kernel).T[:, None], "bias": bias, "tail": tail}
        given = {name: np.ascontiguousarray(a) for name, a in given.items() if a is not None}
        names = [name if name in given else "" for name in ("x", "kernel", "bias", "tail")]
        y, _ = convolution(*names).run(None, given)
        return y

    laws.check("causal_conv", kernel, dtype=np.float32, only=EQUALS)


def ssd_arrays(time: int) -> tuple[np.ndarray, ...]:
    """Two rows of four heads in two groups."""
    rng = np.random.default_rng(time)
    b, c = rng.standard_normal((2, 2, time, 2, 5))
    x, decay = rng.standard_normal((2, time, 4, 3)), -abs(rng.standard_normal((2, time, 4)))
    return x, decay, b, c, rng.standard_normal((2, 4, 5, 3))


def channel_arrays(time: int) -> tuple[np.ndarray, ...]:
    """Of a delta rule whose channels decay by themselves."""
    return tuple(arrays(time, "channels").values())


@pytest.mark.parametrize(
    ("operator", "specified", "arrays_of", "axes"),
    [
        (selective_scan_operator, selective_scan, scan_arrays, "BTF BTF FK BTK BTK BFK"),
        (ssd_operator, ssd_recurrent, ssd_arrays, "BTHV BTH BTGK BTGK BHKV"),
        (gated_delta_operator, gated_delta_rule, channel_arrays, "BTHK BTHK BTHV BHKV BTHK BTH"),
    ],
    ids=["selective scan", "state space", "delta rule of channels"],
)
def test_what_a_graph_computes(operator: Any, specified: Any, arrays_of: Any, axes: str):
    """With what a target computes around the operator, at other lengths than the traced one."""

    def floats(time: int) -> list[np.ndarray]:
        return [a.astype(np.float32) for a in arrays_of(time)]

    inputs = {
        str(i): (a, tuple(letters))
        for i, (a, letters) in enumerate(zip(floats(7), axes.split(), strict=True))
    }
    graph = onnx_graph.export(operator, inputs, 23)
    for time in (1, 12):
        for got, expected in zip(graph(*floats(time)), specified(*floats(time)), strict=True):
            equal(got, expected, 2e-6)


def test_small_rates_have_all_digits_in_a_graph():
    """ONNX Runtime's own Sigmoid has them for the largest numbers alone, and a norm may follow."""
    x = np.zeros((3, 5, 7), np.float32)
    graph = onnx_graph.export(over_tensors(precise_sigmoid), {"x": (x, ("B", "T", "S"))}, 23)
    laws.check(
        "precise_sigmoid", lambda x: graph(x)[0], dtype=np.float32, only="small results have all digits"
    )
