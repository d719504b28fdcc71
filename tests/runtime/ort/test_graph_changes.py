"""Changes of a graph's bytes, against the onnx package."""

import numpy as np
import onnx
from onnx import helper, numpy_helper
from tfm.runtime.ort.graph_changes import set_integer, with_outputs


def model(level: int) -> onnx.ModelProto:
    """Products among other nodes, over weights that hold the attribute's own bytes."""
    nodes = [
        helper.make_node(
            "MatMulNBits", ["x", "w"], [name], domain="com.microsoft", N=300, accuracy_level=level, bits=4
        )
        for name in "ab"
    ]
    nodes.insert(1, helper.make_node("Other", ["x"], ["z"], level=4, accuracy=4.0, accuracy_levels=[4, 4]))
    weights = numpy_helper.from_array(np.frombuffer(b"accuracy_level\x18\x04", np.uint8), "w")
    return helper.make_model(helper.make_graph(nodes, "g", [], [], [weights]))


def test_the_attribute_alone_is_changed():
    changed = set_integer(model(4).SerializeToString(), "accuracy_level", 0)
    assert onnx.ModelProto.FromString(changed) == model(0)
    for other in ("no_such_attribute", "accuracy", "N"):  # none, a float, one of two bytes
        assert set_integer(changed, other, 1) == changed


def test_values_become_outputs():
    names = ["a", "a long name " * 20]
    expected = model(4)
    expected.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    assert onnx.ModelProto.FromString(with_outputs(model(4).SerializeToString(), names)) == expected
