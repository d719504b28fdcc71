"""Which operators keep the bits of a token whatever is computed with it."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from helpers import tiny_models
from onnx import TensorProto, helper
from tfm.runtime.bundle.kernel_storage import DOMAIN, KERNELS
from tfm.runtime.bundle.operators import OPERATORS
from tfm.runtime.bundle.same_bits import KEPT_BY_ONNX, ROUNDED, SameBits, promise

OURS = {(DOMAIN, name) for name in KERNELS}


def test_kernels_and_what_moves_or_rounds_numbers_promise_it() -> None:
    assert KEPT_BY_ONNX.issubset(OPERATORS[""])
    promised = promise(OURS | {("", name) for name in KEPT_BY_ONNX})
    assert promised == SameBits()
    assert promised
    assert str(promised) == "promised"


@pytest.mark.parametrize(
    ("domain", "name"),
    [
        ("", "MatMul"),
        ("", "Softmax"),
        ("", "ReduceSum"),
        ("com.microsoft", "MatMulNBits"),
        ("", "BlockLinear"),
    ],
)
def test_one_operator_breaks_it(domain: str, name: str) -> None:
    """The same name in another set is another operator."""
    broken = promise(OURS | {("", "Add"), (domain, name)})
    assert not broken
    assert str(broken) == f"not promised: {name} of ONNX Runtime"
    assert promise([("", "Erf"), (domain, name), ("", "Mul")]).reason.startswith(
        ", ".join(sorted(["Erf", name]))
    )


def test_sums_in_rounds_break_it() -> None:
    """Also where all operators are kernels."""
    assert promise(OURS, tiny_models.selective_scans())
    assert promise(OURS, tiny_models.time_mixes()).reason == "a recurrence in rounds"


# Of the operators of floats: how many inputs each has.
FLOATS = dict.fromkeys(("Abs", "Floor", "Neg", "Relu"), 1)
FLOATS |= dict.fromkeys(("Add", "Div", "Max", "Min", "Mul", "Sub"), 2)


@pytest.mark.parametrize("name", FLOATS)
def test_a_number_is_rounded_alike_wherever_it_stands(name: str) -> None:
    """ONNX Runtime computes several at a time, and the last ones of an array otherwise."""
    names = [f"x{i}" for i in range(FLOATS[name])]
    ports = [helper.make_tensor_value_info(port, TensorProto.FLOAT, ["n"]) for port in (*names, "y")]
    graph = helper.make_graph([helper.make_node(name, names, ["y"])], "g", ports[:-1], ports[-1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    arrays = np.random.default_rng(0).standard_normal((len(names), 999)).astype(np.float32)
    whole = np.asarray(session.run(None, dict(zip(names, arrays, strict=True)))[0])
    for first in (0, 3):
        for length in (1, 2, 5, 8, 15, 33, 100):
            here = slice(first, first + length)
            part = session.run(None, {port: array[here] for port, array in zip(names, arrays, strict=True)})[
                0
            ]
            assert np.array_equal(part, whole[here])


def test_all_operators_of_floats_were_tried() -> None:
    """The others of the list compare, choose, convert, or are for truth values or whole numbers."""
    others = "And Cast Clip Equal Greater GreaterOrEqual Less LessOrEqual Mod Not Or Xor"
    assert set(ROUNDED.split()) == FLOATS.keys() | set(others.split())
