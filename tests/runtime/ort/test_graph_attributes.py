"""An attribute that is set in a graph's bytes, against the onnx package."""

import contextlib

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tfm.refimpl.errors import BundleError
from tfm.runtime.ort.graph_attributes import set_integer


def model(level: int) -> onnx.ModelProto:
    """Products in the graph and in both branches of an If, weights that hold the attribute's own bytes."""

    def product(name: str) -> onnx.NodeProto:
        return helper.make_node(
            "MatMulNBits", ["x", "w"], [name], domain="com.microsoft", N=300, accuracy_level=level, bits=8
        )

    branches = [
        helper.make_graph([product(name)], name, [], [onnx.ValueInfoProto(name=name)]) for name in "ab"
    ]
    choice = helper.make_node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1])
    weights = np.frombuffer(b"accuracy_level\x18\x04", np.uint8)
    other = helper.make_node("Other", ["x"], ["z"], level=4, accuracy=4.0, accuracy_levels=[4, 4])
    graph = helper.make_graph(
        [product("p"), choice, other], "g", [], [], [numpy_helper.from_array(weights, "w")]
    )
    return helper.make_model(graph)


def test_the_attribute_alone_is_changed():
    changed = set_integer(model(4).SerializeToString(), "accuracy_level", 0)
    assert onnx.ModelProto.FromString(changed) == model(0)
    assert set_integer(changed, "no_such_attribute", 1) == changed


def test_fields_of_eight_and_four_bytes_are_passed_over():
    node = b"\x41" + b"\xff" * 8 + b"\x45" + b"\xff" * 4 + onnx.NodeProto(op_type="Other").SerializeToString()
    graph = onnx.helper.make_model(onnx.GraphProto()).SerializeToString() + b"\x3a" + bytes([len(node) + 2])
    data = graph + b"\x0a" + bytes([len(node)]) + node
    assert set_integer(data, "accuracy_level", 0) == data


def test_the_attribute_takes_one_byte():
    with pytest.raises(BundleError, match="N must be an integer below 128"):
        set_integer(model(4).SerializeToString(), "N", 0)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (model(4).SerializeToString()[:200], "ends after its message"),
        (b"\x80" * 20, "has no end"),
        (b"\x0b", "a field of type 3"),
        (b"\x3a\x02\x09\x01", "ends after its message"),
    ],
)
def test_bytes_that_are_no_model_are_refused(data, words):
    with pytest.raises(BundleError, match=words):
        set_integer(data, "accuracy_level", 0)


def test_damage_is_refused_or_without_harm():
    data, rng = model(4).SerializeToString(), np.random.default_rng(0)
    damaged = [data[:at] + rng.bytes(1) + data[at + 1 :] for at in range(len(data))]
    for other in (*damaged, *(data[:n] for n in range(len(data)))):
        with contextlib.suppress(BundleError):
            assert len(set_integer(other, "accuracy_level", 0)) == len(other)
