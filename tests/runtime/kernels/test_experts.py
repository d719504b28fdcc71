"""Products of the chosen experts: the specification's bits, whatever is chosen; wrong inputs are errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import onnx_nodes
from helpers.expert_kernel import ExpertCase, experts, random_expert_case
from helpers.kernel_cases import Case, table
from helpers.kernels import Kernels, bits_of, in_order, in_threads
from helpers.refused import refused
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

F = np.float32


@given(st.integers(0, 2**32 - 1).map(random_expert_case), st.sampled_from((in_order, in_threads)))
def test_products_are_the_specification_bit_for_bit(
    instruction_sets: list[Kernels], case: ExpertCase, runner: Any
):
    """Whatever number of tokens an expert has, and where numbers are tiny, huge or not finite."""
    for one in instruction_sets:
        got, expected = bits_of(experts(one, case, runner)), bits_of(case.expected(one))
        assert np.array_equal(got, expected), f"{one.name}: {(got != expected).sum()} of {got.size} differ"


@pytest.mark.parametrize("weighed", [True, False])
def test_many_rows_are_shared_out(instruction_sets: list[Kernels], weighed: bool):
    """Taken, put back and added by several threads."""
    rng = np.random.default_rng(0)
    every = [Case(table(rng, 530, 128, bits=8, block=32, zero=False), np.zeros((0, 128), F), None)] * 3
    shares = rng.standard_normal((200, 2)).astype(F) if weighed else None
    x = rng.standard_normal((200, 128)).astype(F)
    case = ExpertCase(every, x, rng.integers(0, 2, (200, 2)), shares)  # the third has no rows
    for one in instruction_sets:
        assert np.array_equal(bits_of(experts(one, case, in_threads)), bits_of(case.expected(one))), one.name


def node(case: ExpertCase, changed: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The operator of a case and its inputs, with some of these and of its attributes changed."""
    packed = case.packed()
    operator = "ExpertSum" if case.shares is not None else "ExpertSwiGLU" if case.gates else "ExpertLinear"
    arrays = {"x": case.x, "index": case.index, "shares": case.shares}
    for e, (one, expert) in enumerate(zip(packed, case.experts, strict=True)):
        parts = {"codes": one.codes, "scales": one.scales, "zeros": one.zeros, "minima": one.minima}
        parts |= {"bias": expert.bias, "factors": one.factors, "table": one.table}
        arrays |= {f"{name}{e}": a for name, a in parts.items()}
    arrays |= {name: a for name, a in changed.items() if name in arrays}
    arrays = {name: a for name, a in arrays.items() if a is not None}
    one = packed[0]
    sizes = {"K": one.columns, "N": one.outputs, "bits": one.bits, "block_size": one.block}
    sizes |= {"zeros": int(one.zeros is not None), "minima": int(one.minima is not None)}
    sizes |= {"biases": int(case.experts[0].bias is not None), "tables": int(one.table is not None)}
    sizes |= {name: value for name, value in changed.items() if name in sizes}
    return helper.make_node(operator, list(arrays), ["y"], domain="tfm", **sizes), arrays


def run(library: Path, case: ExpertCase, **changed: Any) -> np.ndarray:
    one, arrays = node(case, changed)
    return onnx_nodes.graph([one], arrays, {}, ["y"], library=library)[0]


@pytest.mark.parametrize("seed", range(12))
def test_operators_have_the_kernels_bits(kernels_library: Path, instruction_sets: list[Kernels], seed: int):
    """Scales of either type side by side, zero points, minima and biases or none, no tokens too."""
    case = random_expert_case(seed)
    case = replace(case, shares=None) if case.gates else case
    got = run(kernels_library, case)
    assert np.array_equal(bits_of(got), bits_of(experts(instruction_sets[0], case)))


def example() -> ExpertCase:
    rng = np.random.default_rng(0)
    x, bias = rng.standard_normal((3, 40)).astype(F), rng.standard_normal(19).astype(F)
    every = [
        Case(table(rng, 19, 40, bits=8, block=16, zero=True, minimum=True), x[:0], bias) for _ in range(2)
    ]
    index = np.array([[0, 1], [1, 0], [0, 0]])
    return ExpertCase(every, x, index, rng.standard_normal((3, 2)).astype(F))


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "other K": ({"x": np.ones((3, 39), F)}, "x [M, K] I,"),
    "other rows": ({"x": np.ones((2, 40), F)}, "x [M, K] I,"),
    "few choices": ({"x": np.ones((3, 1, 40), F)}, "x [M, K] I,"),
    "no choices": ({"index": np.ones(3, np.int64)}, "index [M, I]"),
    "shares": ({"shares": np.ones((3, 3), F)}, "shares [M, I]"),
    "an expert before": ({"index": np.array([[0, 1], [1, 0], [0, -1]])}, "index experts"),
    "an expert behind": ({"index": np.array([[0, 1], [2, 0], [0, 0]])}, "index experts"),
    "few codes": ({"codes1": np.ones((2, 11, 16, 4), np.uint8)}, "codes"),
    "codes of another type": ({"codes1": np.ones((2, 12, 16, 4), np.int8)}, "codes uint8"),
    "few scales": ({"scales1": np.ones((2, 2, 16), F)}, "scales"),
    "scales of another type": ({"scales1": np.ones((2, 3, 16), np.float64)}, "float32 float16"),
    "zeros of another type": ({"zeros0": np.ones((2, 3, 16), np.int8)}, "zeros uint8"),
    "few zeros": ({"zeros0": np.ones((2, 2, 16), np.uint8)}, "zeros"),
    "minima in half": ({"minima1": np.ones((2, 3, 16), np.float16)}, "minima type scales"),
    "few minima": ({"minima1": np.ones((2, 2, 16), F)}, "minima"),
    "a short bias": ({"bias0": np.ones(18, F)}, "bias float32 [N]"),
    "a bias in half": ({"bias0": np.ones(19, np.float16)}, "bias float32 [N]"),
    "inputs that are left": ({"biases": 0, "zeros": 0}, "expert matrix"),
    "a bias too few": ({"bias1": None}, "expert matrix"),
    "other N": ({"N": 33}, "bias float32 [N]"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_inputs_are_errors(kernels_library: Path, name: str):
    """One line that says what must hold, whatever a file claims."""
    changed, message = WRONG[name]
    assert run(kernels_library, example()).shape == (3, 19)
    with refused(Exception, *message.split()) as error:
        run(kernels_library, example(), **changed)
    assert "\n" not in str(error.value)
