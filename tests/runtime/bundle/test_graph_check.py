"""A graph that no export writes is refused before ONNX Runtime sees it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from helpers.refused import refused
from onnx import TensorProto, helper, numpy_helper
from tfm.refimpl.errors import BundleError
from tfm.runtime.bundle.graph_check import Weights, check_graph
from tfm.runtime.bundle.graph_io import GRAPH, Graph, Port
from tfm.runtime.bundle.operators import OPERATORS
from tfm.runtime.bundle.plan import Tensor
from tfm.runtime.bundle.same_bits import Operator, promise

PORTS = Graph(
    GRAPH,
    True,
    (Port("tokens", ("batch", "time"), "int64"), Port("cos.0", ("time", 4))),
    (Port("predictions", ("batch", 5)),),
)
TENSORS = {"table": Tensor("float16", (7, 5), 0, 70), "codes": Tensor("uint4", (3,), 128, 2)}


def external(name: str, kind: int, shape: list[int], file: str, offset: int, length: int) -> Any:
    tensor = onnx.TensorProto(name=name, data_type=kind, dims=shape, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": file, "offset": offset, "length": length}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def sound() -> Any:
    """A graph of these ports and tensors."""
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["states"], name="first", axis=0),
        helper.make_node("ReduceMax", ["states", "one"], ["top"], keepdims=0),
        helper.make_node("Constant", [], ["two"], value=numpy_helper.from_array(np.array([2.0], np.float32))),
        helper.make_node("Cast", ["top"], ["predictions"], to=TensorProto.FLOAT),
    ]
    inputs = [
        helper.make_tensor_value_info("tokens", TensorProto.INT64, ["batch", "time"]),
        helper.make_tensor_value_info("cos.0", TensorProto.FLOAT16, ["time", 4]),
    ]
    outputs = [helper.make_tensor_value_info("predictions", TensorProto.FLOAT, ["batch", 5])]
    graph = helper.make_graph(nodes, "main_graph", inputs, outputs)
    graph.initializer.extend(
        [
            external("table", TensorProto.FLOAT16, [7, 5], "model.onnx.data", 0, 70),
            external("codes", TensorProto.UINT4, [3], "model.onnx.data", 128, 2),
            numpy_helper.from_array(np.array([1]), "one"),
        ]
    )
    states = helper.make_tensor_value_info("states", TensorProto.FLOAT16, ["batch", "time", 5])
    graph.value_info.append(states)
    graph.input[0].doc_string = "ids of the tokens"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    helper.set_model_props(model, {"quantization": "fp16"})
    return model


def test_operators_compute_numbers_and_hold_no_graph():
    """By the schemas of the standard: no graph or seed among the attributes, and tensors alone."""
    kinds = onnx.defs.OpSchema.AttrType
    for name in OPERATORS[""]:
        schema = onnx.defs.get_schema(name)
        attributes = schema.attributes
        assert not {a.type for a in attributes.values()} & {kinds.GRAPH, kinds.GRAPHS}, name
        assert "seed" not in attributes, name
        types = [kind for part in (*schema.inputs, *schema.outputs) for kind in part.types]
        assert name == "Identity" or all(kind.startswith("tensor(") for kind in types), name
    assert OPERATORS.keys() == {"", "com.microsoft"}


def check(data: bytes, dtype: str = "float16") -> set[Operator]:
    return check_graph(data, PORTS, Weights("model.onnx.data", TENSORS), dtype, "x/model.onnx")


def test_a_sound_graph():
    check(sound().SerializeToString())


@pytest.mark.parametrize("name", ["ScatterElements", "ScatterND"])
def test_a_scatter_that_adds_is_another_operator(name: str):
    """Its sums depend on what is added together, so it promises no bits (`same_bits`)."""
    model, plain, moves = sound(), sound(), sound()
    for one, given in ((model, {"reduction": "add"}), (plain, {}), (moves, {"reduction": "none"})):
        one.graph.node.append(helper.make_node(name, ["states", "one", "top"], ["sums"], **given))
    adds = {("", f"{name} with a reduction")}
    assert check(model.SerializeToString()) == check(plain.SerializeToString()) | adds
    assert check(moves.SerializeToString()) == check(plain.SerializeToString())
    assert not promise(adds)


def shaped(model: Any, name: str, shape: list[int], length: int = 70) -> Any:
    """The table's bytes in another shape."""
    tensor = external(name, TensorProto.FLOAT16, shape, "model.onnx.data", 0, length)
    model.graph.initializer.append(tensor)
    return model


def test_a_tensor_in_another_shape():
    """Beside the tensor, or in its place."""
    model = shaped(sound(), "table.5x7x1", [5, 7, 1])
    check(model.SerializeToString())
    del model.graph.initializer[0]
    model.graph.node[0].input[0] = "table.5x7x1"
    check(model.SerializeToString())


def more_elements(model: Any) -> None:
    shaped(model, "table.5x7x2", [5, 7, 2])


def another_view(model: Any) -> None:
    shaped(model, "table.5x7x1", [7, 5])


def partly(model: Any) -> None:
    shaped(model, "table.5x7x1", [5, 7, 1], 68)


def view_of_nothing(model: Any) -> None:
    shaped(model, "tables.5x7x1", [5, 7, 1])


def loop(model: Any) -> None:
    body = helper.make_graph([], "body", [], [])
    count = helper.make_node("Constant", [], ["count"], value_int=3)
    model.graph.node.extend([count, helper.make_node("Loop", ["count", ""], ["x"], body=body)])


def cycle(model: Any) -> None:
    for left, right in ("ab", "ba"):
        model.graph.node.append(helper.make_node("Add", [left, left], [right]))


def large(model: Any) -> None:
    shape = numpy_helper.from_array(np.array([2**40]), "shape")
    model.graph.initializer.append(shape)
    model.graph.node.append(helper.make_node("ConstantOfShape", ["shape"], ["x"]))


def large_attribute(model: Any) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["count"], value_int=2**62))


def more_parts(model: Any) -> None:
    """At this ONNX Runtime ends the process."""
    model.graph.node.append(helper.make_node("Split", ["states"], ["x", "y"], axis=-1, num_outputs=1))


def memory(model: Any) -> None:
    """ONNX Runtime's own mark of data at an address of the process."""
    model.graph.initializer.append(external("more", TensorProto.FLOAT, [1], "*/_ORT_MEM_ADDR_/*", 4096, 4))


def elsewhere(model: Any) -> None:
    model.graph.initializer[0].external_data[0].value = "../model.onnx.data"


def beyond(model: Any) -> None:
    model.graph.initializer[0].external_data[2].value = str(2**50)


def other_shape(model: Any) -> None:
    model.graph.initializer[0].dims[0] = 6


def lying(model: Any) -> None:
    model.graph.initializer[2].dims[0] = 2**40


def many_axes(model: Any) -> None:
    model.graph.initializer[2].dims.extend([2**62] * 1000)


def texts(model: Any) -> None:
    model.graph.initializer.append(helper.make_tensor("s", TensorProto.STRING, [1], [b"x"]))


def unread(model: Any) -> None:
    del model.graph.initializer[1]


def domain(model: Any) -> None:
    model.graph.node[0].domain = "evil"


def imported(model: Any) -> None:
    model.opset_import.add(domain="evil", version=1)


def not_imported(model: Any) -> None:
    model.graph.node[0].domain, model.graph.node[0].op_type = "com.microsoft", "MatMulNBits"


def function(model: Any) -> None:
    model.functions.add(name="f", domain="com.microsoft")


def sparse(model: Any) -> None:
    model.graph.sparse_initializer.add()


def doubled(model: Any) -> None:
    model.graph.node.add().CopyFrom(model.graph.node[0])


def renamed(model: Any) -> None:
    model.graph.input[0].name = "tokens2"


def another_port(model: Any) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def other_axes(model: Any) -> None:
    model.graph.input[1].type.tensor_type.shape.dim[1].dim_value = 2**40


def other_type(model: Any) -> None:
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16


def no_output(model: Any) -> None:
    del model.graph.output[:]


def never_computed(model: Any) -> None:
    del model.graph.node[3]


def no_graph(model: Any) -> None:
    model.ClearField("graph")


HOSTILE: dict[Callable[[Any], None], str] = {
    more_elements: "'table.5x7x2'",
    another_view: "table.5x7x1 float16 [5, 7, 1], type 10",
    partly: "table.5x7x1 stored",
    view_of_nothing: "'tables.5x7x1'",
    loop: "operator 'Loop'",
    cycle: "Add 'a'",
    large: "'shape' 2147483648 1099511627776",
    large_attribute: "'value_int'",
    more_parts: "num_outputs 2, 1",
    memory: "'more'",
    elsewhere: "../model.onnx.data",
    beyond: "table stored",
    other_shape: "table float16 [7, 5], type 10 (6, 5);",
    lying: "'one' 7 8",
    many_axes: "'one' 8 1001",
    texts: "field 6 type 2",
    unread: "tensor codes",
    domain: "'evil.Gather'",
    imported: "set 'evil' 1",
    not_imported: "'com.microsoft.MatMulNBits'",
    function: "field 25 type 2",
    sparse: "field 15 type 2",
    doubled: "value 'states'",
    renamed: "'tokens' 'tokens2'",
    another_port: "2 inputs 3",
    other_axes: "input 'cos.0', 10, 'cos.0', 1099511627776",
    other_type: "output 'predictions', 1, 'predictions', 10",
    no_output: "1 outputs 0",
    never_computed: "node output predictions",
    no_graph: "no graph",
}


def refuses(data: bytes, match: str) -> None:
    start = time.process_time()
    with refused(BundleError, *match.split()) as caught:
        check(data)
    assert time.process_time() - start < 10
    assert str(caught.value).startswith("x/model.onnx: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("change", HOSTILE, ids=lambda change: change.__name__)
def test_hostile(change):
    model = sound()
    change(model)
    refuses(model.SerializeToString(), HOSTILE[change])


def test_another_type_of_floats():
    with refused(BundleError, "input", "('cos.0',", "1,"):
        check(sound().SerializeToString(), "float32")


def field(number: int, data: bytes) -> bytes:
    """A field of bytes in a message."""
    length, size = len(data), b""
    while length > 127:
        size, length = size + bytes([length & 127 | 128]), length >> 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + data


def test_graphs_inside_of_graphs():
    """If inside of If, 5,000 deep: nothing looks into the first."""
    inner = b""
    for _ in range(5000):
        node = field(4, b"If") + field(5, field(1, b"then_branch") + field(6, inner))
        inner = field(1, node)
    data = sound().SerializeToString()
    refuses(data + field(7, inner), "graph only once")
    refuses(field(7, inner), "inputs")
    with_attribute = sound()
    with_attribute.graph.node[0].attribute.append(
        helper.make_attribute("then_branch", helper.make_graph([], "g", [], []))
    )
    refuses(with_attribute.SerializeToString(), "field 6 type 2")


def test_texts_are_utf8():
    """Names, operators and attributes; ONNX Runtime would put a name that isn't into an error."""
    data = sound().SerializeToString()
    texts = (b"first", b"Gather", b"states", b"axis", b"batch", b"main_graph", b"quantization", b"ids of the")
    for text in texts:
        for at in range(len(data)):
            if data.startswith(text, at):
                refuses(data[:at] + b"\xff" + data[at + 1 :], "graph export")


def test_cut_short_anywhere():
    model = sound()
    model.ClearField("metadata_props")  # the last field, which a graph may lack
    data = model.SerializeToString()
    for size in range(len(data)):
        refuses(data[:size], "graph export")


@pytest.mark.parametrize(
    "data",
    [
        b"\x80" * 30,
        b"\x0b\x0c",
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x3a\x05\x08",
        b"\x09\x00",
    ],
    ids=["a number without an end", "a group", "a length of 2^64", "a length beyond the end", "eight bytes"],
)
def test_what_is_no_message(data):
    refuses(data, "graph export")
