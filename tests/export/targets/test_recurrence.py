"""The gated delta rule as targets compute it, against the recurrence of the specification."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from helpers.tolerances import equal
from onnx import TensorProto, helper
from tfm.export.targets.recurrence import gated_delta_chunk
from tfm.refimpl import laws
from tfm.refimpl.engine.cache_kinds import CHUNK
from tfm.refimpl.laws.kit.checking import EQUALS
from tfm.refimpl.ops.delta import gated_delta_rule

NAMES = ("q", "k", "v", "state", "decay", "beta")


def arrays(time: int, *, alike: bool) -> dict[str, np.ndarray]:
    """Two rows of three heads. With `alike` all keys are the same one, β is 1 and nothing decays."""
    rng = np.random.default_rng(time)
    q, k = rng.standard_normal((2, 2, time, 3, 5))
    k = k[:, :1].repeat(time, 1) if alike else k.copy()
    decay = -np.exp(rng.normal(0, 2, (2, time, 3))) * (not alike)
    beta = np.ones((2, time, 3)) if alike else rng.random((2, time, 3))
    v, state = rng.standard_normal((2, time, 3, 4)), rng.standard_normal((2, 3, 5, 4))
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    return dict(zip(NAMES, (q, k, v, state, decay, beta), strict=True))


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("time", [1, 2, 3, 100, CHUNK])
def test_a_run_of_any_length_is_one_chunk(time: int, alike: bool):
    """Also where each token overwrites what the one before it wrote: powers of that system would explode."""
    given = arrays(time, alike=alike)
    got = gated_delta_chunk(*(torch.from_numpy(a) for a in given.values()))
    for ours, expected in zip(got, gated_delta_rule(**given), strict=True):
        equal(ours.numpy(), expected)


def test_more_tokens_than_a_run_has_are_not_a_number():
    got, _ = gated_delta_chunk(*(torch.from_numpy(a) for a in arrays(CHUNK + 1, alike=False).values()))
    assert got.isnan().any()


@functools.cache
def operator(heads: int) -> onnxruntime.InferenceSession:
    """One node, LinearAttention, for arrays of any sizes."""
    attributes: dict[str, Any] = {"q_num_heads": heads, "kv_num_heads": heads, "update_rule": "gated_delta"}
    node = helper.make_node("LinearAttention", NAMES, ["y", "after"], domain="com.microsoft", **attributes)
    values = lambda names: [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in names]  # noqa: E731
    graph = helper.make_graph([node], "one", values(NAMES), values(["y", "after"]))
    sets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=sets, ir_version=10)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def test_linear_attention_of_onnx_runtime_is_the_rule():
    """Over drawn shapes, grouped heads repeated as the mirror repeats them."""

    def kernel(*given: Any) -> tuple[np.ndarray, np.ndarray]:
        q, k, v, *others = (np.asarray(a) for a in given)
        flat = [a.reshape(*a.shape[:2], -1) for a in (q, k, v)]
        y, after = operator(v.shape[2]).run(None, dict(zip(NAMES, (*flat, *others), strict=True)))
        return np.asarray(y).reshape(v.shape), np.asarray(after)

    laws.check("gated_delta_rule", kernel, dtype=np.float32, only=EQUALS)
