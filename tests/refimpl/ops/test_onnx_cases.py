"""The specification on ONNX's own cases of sixteen operators."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.refused import refused
from reports import onnx_cases
from reports.onnx_cases import ADAPTERS, ASIDE, Case, check, collect

CASES = {op: collect(op) for op in ADAPTERS}
# As many as onnx 1.23 has; a later one may have more.
COLLECTED = {
    "Attention": 93, "RMSNormalization": 19, "LayerNormalization": 19, "LinearAttention": 14,
    "RotaryEmbedding": 8, "LSTM": 6, "Gelu": 4, "Softmax": 7, "Swish": 1, "QuantizeLinear": 13,
    "DequantizeLinear": 14, "DynamicQuantizeLinear": 3, "MatMulInteger": 1, "QLinearMatMul": 8,
    "TensorScatter": 3, "TopK": 7,
}  # fmt: skip


def run() -> list[Any]:
    """All cases that aren't set aside."""
    every = [(op, case) for op, cases in CASES.items() for case in cases]
    return [pytest.param(op, case, id=case.name) for op, case in every if case.name not in ASIDE]


@pytest.mark.parametrize(("op", "case"), run())
def test_case(op: str, case: Case):
    check(op, case)


def test_nearly_all_cases_are_run():
    """At least 95 % of those collected; whatever is set aside is a case, and has its reason."""
    counts = {op: len(cases) for op, cases in CASES.items()}
    assert all(counts[op] >= count for op, count in COLLECTED.items()), f"cases are missing: {counts}"
    assert len(run()) >= 0.95 * sum(counts.values())
    assert len(run()) + len(ASIDE) == sum(counts.values()), "a case set aside isn't there"
    assert all(ASIDE.values())


def test_the_table_counts_what_passed(monkeypatch: pytest.MonkeyPatch):
    """A causal mask that is off by one fails causal cases, and only attention's."""
    right = onnx_cases.causal_mask
    monkeypatch.setattr(onnx_cases, "causal_mask", lambda at, keys, **more: right(at - 1, keys, **more))
    rows, others = onnx_cases.table()
    passed = {op: (good, every) for op, good, every in rows}
    assert passed["LSTM"] == (len(CASES["LSTM"]),) * 2
    assert passed["Attention"][0] < passed["Attention"][1]
    failed = [name for name, why in others.items() if why.startswith("fails")]
    assert "test_attention_4d_causal" in failed
    assert "test_attention_4d" not in failed


def test_a_result_that_is_off_fails():
    case = next(c for c in CASES["Gelu"] if c.name == "test_gelu_default_2")
    off = Case(case.name, case.attributes, case.inputs, [case.outputs[0] * np.float32(1.00001)])
    with refused(AssertionError, "off"):
        check("Gelu", off)
    with refused(AssertionError, "compares", "nothing"):
        check("Gelu", Case(case.name, case.attributes, case.inputs, [None]))
